package native

import (
	"strings"
	"testing"
	"time"

	"lambent/sandbox/cgroup"
)

// TestIOLimit reads 16 MiB around the page cache with 8 MiB per second allowed. Less than the time that takes cannot pass.
func TestIOLimit(t *testing.T) {
	d := openShell(t, Options{IO: cgroup.IOLimits{ReadBytes: 8 << 20}})
	box := shellSandbox(t, d, "a")
	if out := shellOutput(t, box, "dd if=/dev/zero of=/tmp/a bs=1048576 count=16 conv=fsync 2>&1"); !strings.Contains(out, "16+0 records out") {
		t.Fatalf("the output is %q", out)
	}
	began := time.Now()
	out := shellOutput(t, box, "dd if=/tmp/a of=/dev/null bs=1048576 iflag=direct 2>&1")
	took := time.Since(began)
	if !strings.Contains(out, "16+0 records in") {
		t.Fatalf("the output is %q", out)
	}
	if took < 1500*time.Millisecond {
		t.Errorf("16 MiB were read in %v", took)
	}
}
