package network

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Policy says what sandboxes may reach.
type Policy string

// The policies. Whatever the policy, sandboxes reach neither the host's own addresses nor one another, nor loopback,
// link-local, multicast and broadcast addresses, nor the metadata services of cloud providers.
const (
	// None is no network: a driver is then given no Network at all.
	None Policy = "none"
	// Internet is public addresses only, and the prefixes of Options.Allow.
	Internet Policy = "internet"
	// All is private addresses too: whatever the host itself can reach.
	All Policy = "all"
)

// ParsePolicy reads a policy from a setting.
func ParsePolicy(text string) (Policy, error) {
	switch policy := Policy(text); policy {
	case None, Internet, All:
		return policy, nil
	}
	return "", fmt.Errorf("network policy %q: it is one of none, internet, all", text)
}

// never may be reached under any policy.
var never = prefixes(
	"0.0.0.0/8",          // this host
	"127.0.0.0/8",        // loopback
	"169.254.0.0/16",     // link-local, with the metadata services of most clouds
	"100.100.100.200/32", // metadata of Alibaba Cloud
	"168.63.129.16/32",   // the wire server of Azure, which hands out the machine's certificates
	"192.0.0.0/24",       // protocol assignments, with metadata of Oracle Cloud
	"224.0.0.0/3",        // multicast, reserved, broadcast
)

// private is what is not the public internet, beside what may never be reached.
var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10",                                     // carrier-grade NAT, and many overlay networks
	"198.18.0.0/15",                                     // benchmarks, and many tunnels
	"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", // documentation
	"192.88.99.0/24", // relays of 6to4, which lead to IPv6
)

// refused is what a policy keeps sandboxes from, as ranges in ascending order that neither overlap nor touch. Deny wins over
// Allow, and what may never be reached over both. The block is the network's own.
func refused(policy Policy, allow, deny []netip.Prefix, block netip.Prefix) []addressRange {
	var closed []addressRange
	if policy == Internet {
		closed = subtract(merge(toRanges(private)), merge(toRanges(allow)))
	}
	closed = append(closed, toRanges(deny)...)
	closed = append(closed, toRanges(never)...)
	return merge(append(closed, toRanges([]netip.Prefix{block})...))
}

// addressRange is IPv4 addresses from first to last, both included.
type addressRange struct{ first, last uint32 }

func toRanges(from []netip.Prefix) []addressRange {
	ranges := make([]addressRange, len(from))
	for i, prefix := range from {
		first := toNumber(prefix.Masked().Addr())
		ranges[i] = addressRange{first, first | uint32(uint64(1)<<(32-prefix.Bits())-1)}
	}
	return ranges
}

// merge sorts ranges and makes one of those that overlap or touch.
func merge(ranges []addressRange) []addressRange {
	slices.SortFunc(ranges, func(a, b addressRange) int { return cmp.Compare(a.first, b.first) })
	var merged []addressRange
	for _, next := range ranges {
		if n := len(merged); n > 0 && uint64(next.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, next.last)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// subtract takes ranges away from others. Both are merged.
func subtract(from, away []addressRange) []addressRange {
	var left []addressRange
	for _, whole := range from {
		first, done := whole.first, false
		for _, hole := range away {
			if hole.last < first || hole.first > whole.last {
				continue
			}
			if hole.first > first {
				left = append(left, addressRange{first, hole.first - 1})
			}
			if done = hole.last >= whole.last; done {
				break
			}
			first = hole.last + 1
		}
		if !done {
			left = append(left, addressRange{first, whole.last})
		}
	}
	return left
}

func prefixes(texts ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		parsed[i] = netip.MustParsePrefix(text)
	}
	return parsed
}

func toNumber(address netip.Addr) uint32 {
	bytes := address.As4()
	return binary.BigEndian.Uint32(bytes[:])
}

func fromNumber(number uint32) netip.Addr {
	var bytes [4]byte
	binary.BigEndian.PutUint32(bytes[:], number)
	return netip.AddrFrom4(bytes)
}
