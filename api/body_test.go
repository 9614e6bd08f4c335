package api

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
)

// A body that is not small waits for a place until one is given back, patience ends or the client goes.
func TestPlacesOfLargeBodies(t *testing.T) {
	for name, size := range map[string]int64{"middle": maxSmallBody + 1, "large": lambent.MaxRequestBytes + 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &handler{bodies: bodies{make(chan struct{}, 1), make(chan struct{}, 1)}}
				first, second := &call{handler: h, ctx: t.Context()}, &call{handler: h, ctx: t.Context()}
				if err := first.place(size); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if err := second.place(size); lambent.CodeOf(err) != lambent.Unavailable || time.Since(began) != bodyPatience {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
				second.giveBack() // holds none
				time.AfterFunc(time.Second, first.giveBack)
				if err := second.place(size); err != nil {
					t.Error(err)
				}
				gone, leave := context.WithCancel(t.Context())
				leave()
				began = time.Now()
				if err := (&call{handler: h, ctx: gone}).place(size); lambent.CodeOf(err) != lambent.Unavailable || time.Since(began) != 0 {
					t.Errorf("gone: %v after %v", err, time.Since(began))
				}
				second.giveBack()
				second.giveBack()
				if len(h.bodies.middle)+len(h.bodies.large) != 0 {
					t.Error("a place is lost")
				}
			})
		})
	}
}
