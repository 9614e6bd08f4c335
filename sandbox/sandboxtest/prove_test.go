package sandboxtest_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"lambent/sandbox/sandboxtest"
	"lambent/sandbox/sandboxtest/guest"
	"lambent/sandbox/sandboxtest/probe/hostile"
)

// TestAttemptsSucceedInNamespaces checks the attempts themselves, where no sandbox holds them.
func TestAttemptsSucceedInNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces whose users are others need root")
	}
	sandboxtest.ProveInNamespaces(t)
}

// TestAttemptsSucceedInGuest checks those that need root of a machine, in one that is thrown away. LAMBENT_GUEST_KERNEL names
// its kernel, when that is not installed where the system's own are.
func TestAttemptsSucceedInGuest(t *testing.T) {
	probe := sandboxtest.BuildProbe(t)
	sandboxtest.Prove(t, func(ctx context.Context, names []string) ([]byte, error) {
		out, err := guest.Run(ctx, probe, guest.Options{
			Kernel:     os.Getenv("LAMBENT_GUEST_KERNEL"),
			Load:       []string{"fuse", "overlay", "vsock", "af_alg", "nfnetlink", "xfrm_algo", "xfrm_user", "tun", "loop", "vhost_iotlb", "vhost", "tap", "vhost_net"},
			Parameters: []string{hostile.Throwaway, hostile.BootNames + strings.Join(names, ",")},
		})
		if errors.Is(err, guest.ErrMissing) && (os.Geteuid() != 0 || runtime.GOARCH != "amd64") {
			t.Skip(err)
		}
		return out, err
	})
}
