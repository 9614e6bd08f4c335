package runtimes

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"lambent"
	"lambent/sandbox"
)

// TestShare checks that a registry that went through JSON starts functions in the same way, and that Sources names all that it mounts.
func TestShare(t *testing.T) {
	r := &Registry{region: "eu-west-1", base: []sandbox.Mount{{Source: "/usr", Target: "/usr"}}, interpreters: map[string]interpreter{
		"python3.11": {Name: "python3.11", Path: "/opt/python", Version: "3.11.7", Bootstrap: "/data/python3.11",
			Mounts: []sandbox.Mount{{Source: "/opt/python", Target: "/var/lang"}}},
	}}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	other := &Registry{}
	if err := json.Unmarshal(text, other); err != nil {
		t.Fatal(err)
	}
	v := &lambent.FunctionVersion{Runtime: "python3.11", Handler: "a.b", MemoryMiB: 128}
	want, err := r.Launch(v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := other.Launch(v)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, mount := range want.Mounts {
		if !slices.Contains(r.Sources(), mount.Source) {
			t.Errorf("Sources lacks %s", mount.Source)
		}
	}
	if !reflect.DeepEqual(other.Base(), r.Base()) {
		t.Errorf("the base is %+v", other.Base())
	}
	if err := json.Unmarshal([]byte(`{"Base":1}`), other); err == nil {
		t.Error("what is no registry was read as one")
	}
}
