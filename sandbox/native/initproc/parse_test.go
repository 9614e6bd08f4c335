package initproc

import (
	"net/netip"
	"strconv"
	"testing"
)

// FuzzParseAddress compares with the standard library, which the init does without.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"169.254.100.1:9001", "", "1.2.3.4", "1.2.3:4", "1.2.3.4.5:6", "256.0.0.1:1", "1.1.1.1:65536",
		"1.1.1.1:", ":1", "01.2.3.4:5", "1.2.3.4:5:6", "a.b.c.d:e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, port, err := parseAddress(text)
		want, wantErr := netip.ParseAddrPort(text)
		if wantErr == nil && want.Addr().Is4() && (err != nil || host != want.Addr().As4() || port != int(want.Port())) {
			t.Errorf("%q is read as %v:%d, %v", text, host, port, err)
		}
		if err == nil && (port < 0 || port > 65535) {
			t.Errorf("%q has port %d", text, port)
		}
	})
}

func FuzzDecimal(f *testing.F) {
	for _, seed := range []string{"0", "7", "1024", "1025", "", "-1", "+1", "99999999999999999999", "1a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, ok := decimal(text, 1024)
		want, err := strconv.ParseUint(text, 10, 64)
		if wantOK := err == nil && want <= 1024; ok != wantOK || ok && n != int(want) {
			t.Errorf("%q is read as %d, %v", text, n, ok)
		}
	})
}
