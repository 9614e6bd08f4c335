package network

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestWhatIsReachedUnderEachPolicy(t *testing.T) {
	w := newWorld(t)
	type want struct{ internet, all, mixed bool }
	// mixed is Internet with part of the private network allowed, and one public address denied.
	table := []struct {
		what, to string
		want     want
	}{
		{"public address", internetPeer, want{true, true, true}},
		{"public address beyond", internetOther, want{true, true, false}},
		{"private address", lanPeer, want{false, true, true}},
		{"carrier-grade NAT", sharedPeer, want{false, true, false}},
		{"host's public address", hostPublic, want{}},
		{"host's private address", hostPrivate, want{}},
		{"metadata service", metadata, want{}},
		{"host's end of the uplink", "host", want{}},
		{"router's end of the uplink", "router", want{}},
		{"resolver, at another port", "resolver", want{}},
		{"neighbour", "neighbour", want{}},
		{"loopback", "127.0.0.1", want{}},
	}
	policies := []struct {
		name  string
		opts  Options
		reach func(want) bool
	}{
		{"internet", Options{Policy: Internet}, func(w want) bool { return w.internet }},
		{"all", Options{Policy: All}, func(w want) bool { return w.all }},
		{"mixed", Options{Policy: Internet, Allow: prefixes("10.20.0.0/24", "169.254.0.0/16"), Deny: prefixes("8.8.8.0/24")}, func(w want) bool { return w.mixed }},
	}
	for _, policy := range policies {
		n := w.open(policy.opts)
		inside, _ := w.sandboxOf(n, "a")
		neighbour, other := w.sandboxOf(n, "b")
		w.serveEcho(neighbour)
		named := map[string]netip.Addr{"host": n.layout.host(), "router": n.layout.router(), "resolver": n.layout.resolver(), "neighbour": other.Address()}
		for _, row := range table {
			to := row.to
			if address, ok := named[to]; ok {
				to = address.String()
			}
			for _, protocol := range []string{"tcp4", "udp4"} {
				seen, err := w.reaches(inside, protocol, fmt.Sprintf("%s:%d", to, echoPort))
				if expected := policy.reach(row.want); (err == nil) != expected {
					t.Errorf("policy %s, %s by %s: reached is %v, want %v (%v)", policy.name, row.what, protocol, err == nil, expected, err)
				}
				if err == nil && !strings.HasPrefix(seen, hostPublic+":") && !strings.HasPrefix(seen, hostPrivate+":") {
					t.Errorf("policy %s, %s: the peer saw %q, not the host's address", policy.name, row.what, seen)
				}
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
