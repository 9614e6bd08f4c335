package network

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAttach and BenchmarkDetach report quantiles: the kernel's background work makes means say little. Sandboxes that
// end meanwhile make attaching slower, so those of the first live until its end.
func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	n := w.open(Options{})
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		namespace := must(newNamespace())(b)
		defer namespace.Close()
		began := time.Now()
		must(n.Attach(b.Context(), fmt.Sprint(i), namespace))(b)
		took = append(took, time.Since(began))
	}
	report(b, took)
}

func BenchmarkDetach(b *testing.B) {
	w := newWorld(b)
	n := w.open(Options{})
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		namespace := must(newNamespace())(b)
		attached := must(n.Attach(b.Context(), fmt.Sprint(i), namespace))(b)
		namespace.Close()
		began := time.Now()
		if err := attached.Detach(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	report(b, took)
}

// BenchmarkChurn makes, attaches and ends sandboxes' namespaces, 40 at a time.
func BenchmarkChurn(b *testing.B) {
	w := newWorld(b)
	n := w.open(Options{})
	var id atomic.Int64
	b.SetParallelism(20)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			namespace := must(newNamespace())(b)
			attached := must(n.Attach(b.Context(), fmt.Sprint(id.Add(1)), namespace))(b)
			namespace.Close()
			if err := attached.Detach(); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sandboxes/s")
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
