package network

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/nftables"
)

func TestCheckTriesItOut(t *testing.T) {
	needRoot(t)
	for _, lack := range Check(t.Context()) {
		if !strings.Contains(lack, "unless told otherwise") { // of this machine's own firewall
			t.Error(lack)
		}
	}
}

func TestOthersWhoDropAreNamed(t *testing.T) {
	w := newWorld(t)
	r := must(newRuleset(w.host, nftables.TableFamilyIPv4, "engine"))(t)
	r.chain(nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, "FORWARD")
	r.chain(nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, "INPUT")
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if got := must(forwardDroppers(w.host))(t); fmt.Sprint(got) != "[engine FORWARD]" {
		t.Error(got)
	}
}

func TestAdviceNamesARemedy(t *testing.T) {
	for _, err := range []error{unix.EPERM, unix.EROFS, unix.ENOENT} {
		if said := advice(fmt.Errorf("do something: %w", err)); !strings.HasPrefix(said, "do something: ") || strings.Count(said, ":") < 2 {
			t.Error(said)
		}
	}
}
