package sandboxtest

import (
	"context"
	"strconv"
	"testing"

	"lambent/sandbox"
)

// Bench measures a driver: making sandboxes, the cold start in a ready-made one, freezing and thawing.
func Bench(b *testing.B, h Harness) {
	s := newSuite(b, h)
	b.Run("Create", func(b *testing.B) {
		for i := range b.N {
			box, err := s.driver.Create(b.Context(), "bench-"+strconv.Itoa(i), sandbox.Template{})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			end(b, box)
			b.StartTimer()
		}
	})
	b.Run("Destroy", func(b *testing.B) {
		for i := range b.N {
			b.StopTimer()
			box, err := s.driver.Create(b.Context(), "bench-"+strconv.Itoa(i), sandbox.Template{})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			end(b, box)
		}
	})
	b.Run("ColdStart", func(b *testing.B) { coldStart(b, s) })
	b.Run("FreezeThaw", func(b *testing.B) {
		box := s.sandbox(b, nil)
		process := start(b, box, "pause")
		defer process.Output().Close()
		for b.Loop() {
			if err := box.Freeze(); err != nil {
				b.Fatal(err)
			}
			if err := box.Thaw(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// coldStart measures from Specialise to the first byte that the function's process writes.
func coldStart(b *testing.B, s *suite) {
	buffer := make([]byte, 1)
	for i := range b.N {
		b.StopTimer()
		box, err := s.driver.Create(b.Context(), "bench-"+strconv.Itoa(i), sandbox.Template{})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := box.Specialise(b.Context(), s.specification()); err != nil {
			b.Fatal(err)
		}
		process := start(b, box, "echo", "x")
		if _, err := process.Output().Read(buffer); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		process.Output().Close()
		end(b, box)
		b.StartTimer()
	}
}

func end(b *testing.B, box sandbox.Sandbox) {
	b.Helper()
	if err := box.Destroy(context.Background()); err != nil {
		b.Fatal(err)
	}
}
