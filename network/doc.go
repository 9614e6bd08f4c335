// Package network connects sandboxes to the outside: many sandboxes behind one network interface of the host.
//
//	host                          router namespace                      sandbox's namespace
//	                              (held by this process)                (one of many)
//
//	eth0 <- masquerade -> uplink ====== uplink   s8 ==================== eth0 100.112.0.8/32
//	        table lambent-<id>    |   resolver on lo (DNS)               default route to the resolver's address
//	                              |     s9 ============================= eth0 100.112.0.9/32
//	                              |     ...
//
// Open makes one router: a network namespace without a name, a pair of virtual interfaces to the host, and a handful of rules.
// Attach then costs one pair of interfaces, one route and one neighbour, whatever the number of sandboxes; no rule and no set
// element is made for a sandbox.
//
// # Why routed, and not bridged
//
// Each sandbox has a link of its own to the router, with one host route at its end. There is no broadcast domain: whatever a
// sandbox says at layer 2 (ARP answers, foreign MAC addresses, VLAN tags, IPv6 advertisements) is heard by the router alone,
// which has a permanent neighbour entry for the link, and no IPv6. The reverse path filter of the router refuses a packet
// whose source is not the one address that is routed to the link it came by: this is the same route that makes the
// sandbox reachable, so it cannot be forgotten. A packet from one sandbox's link to another's is forwarded by no rule.
//
// # What may be reached
//
// The router forwards from sandboxes to the uplink only, and only TCP, UDP and echo requests, never fragments, to what the
// policy leaves open (see [Policy]). The host's table drops whatever comes from the uplink for one of its own addresses, before
// any address translation, whatever those addresses are at that moment; so the list of addresses cannot be out of date. The
// outside cannot open connections to sandboxes. There is no IPv6 inside.
//
// # What one sandbox can use up
//
// Packets, new connections, name server queries and, if wanted, bytes have a rate for each sandbox. The router tracks no
// connections at all. The host does, for the address translation, and the connections of a sandbox are limited there; those
// of a sandbox that is gone are forgotten within seconds, before its address is given to another. An address that is free is
// used again as late as possible.
//
// # Names
//
// Sandboxes ask a small forwarder on the router ([ServeDNS]), which needs no rights but its two sockets, and asks the host's
// resolvers, wherever those are. It does not judge the addresses in the answers: a program can always connect to an address
// that it never asked for, and a name can answer differently the second time (rebinding), so only the router's rules, which see the
// packet itself, can hold the policy.
package network
