package network

import "testing"

// TestReaperForgetsFormerLinks has the kernel tell of a link that the reaper deleted itself. The next one of the slot is not gone for it.
func TestReaperForgetsFormerLinks(t *testing.T) {
	result := make(chan error, 1)
	r := &reaper{waiting: map[int]waiter{7: {result: result}}, vanished: map[int]bool{}}
	r.finish(7, nil) // deleted
	r.finish(7, nil) // heard of
	if err := <-result; err != nil || len(r.freed) != 1 {
		t.Fatalf("removed: %v, freed: %v", err, r.freed)
	}
	r.begin(7)
	if r.vanished[7] {
		t.Error("a new link is taken for gone")
	}
}
