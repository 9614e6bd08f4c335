package network

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkAttach and BenchmarkDetach report medians too: the kernel's background work makes means say little.
func BenchmarkAttach(b *testing.B) { benchmark(b, true) }

func BenchmarkDetach(b *testing.B) { benchmark(b, false) }

func benchmark(b *testing.B, attach bool) {
	w := newWorld(b)
	n := w.open(Options{})
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		namespace := must(newNamespace())(b)
		began := time.Now()
		attached := must(n.Attach(b.Context(), fmt.Sprint(i), namespace))(b)
		if attach {
			took = append(took, time.Since(began))
		}
		began = time.Now()
		if err := attached.Detach(); err != nil {
			b.Fatal(err)
		}
		if !attach {
			took = append(took, time.Since(began))
		}
		namespace.Close()
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
