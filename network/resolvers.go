package network

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// maxResolvers is how many name servers of a resolv.conf are asked, as by the C library.
const maxResolvers = 3

// resolvers knows the host's name servers.
type resolvers struct {
	path  string
	fixed []netip.AddrPort

	mu      sync.Mutex
	known   []netip.AddrPort
	looked  time.Time // when the file was last looked at
	changed time.Time // the file's time of change then
}

// current lists the name servers, from the file as it was a second ago at most.
func (r *resolvers) current(now time.Time) []netip.AddrPort {
	if len(r.fixed) > 0 {
		return r.fixed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) > 0 && now.Sub(r.looked) < time.Second {
		return r.known
	}
	r.looked = now
	info, err := os.Stat(r.path)
	if err == nil && info.ModTime().Equal(r.changed) && len(r.known) > 0 {
		return r.known
	}
	// A file that is gone for a moment, or empty, is being replaced: what was known still holds.
	text, err := os.ReadFile(r.path)
	if err == nil {
		if found := parseResolvConf(string(text)); len(found) > 0 {
			r.known, r.changed = found, info.ModTime()
		}
	}
	if len(r.known) == 0 {
		return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)} // as the C library
	}
	return r.known
}

// parseResolvConf lists the name servers of a resolv.conf, ignoring what it does not understand.
func parseResolvConf(text string) []netip.AddrPort {
	var found []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		address, err := netip.ParseAddr(fields[1])
		if err == nil && len(found) < maxResolvers {
			found = append(found, netip.AddrPortFrom(address, 53))
		}
	}
	return found
}
