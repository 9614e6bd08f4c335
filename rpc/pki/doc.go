// Package pki says who is who in a region: it issues certificates to hosts, keeps a host's own, and checks those of others.
//
//	identity.go      what a certificate says of its holder
//	authority.go     the region's certificate authority
//	token.go         what a host needs to join: short-lived, and it names the authority
//	credentials.go   a host's certificate and key, in files that may change while it runs
//	verify.go        TLS settings, and what is checked of the other side
//	renew.go         a new certificate before the old one ends
//
// Certificates are of ECDSA keys on P-256, and are checked against the region's authority alone: names of hosts and addresses
// have no meaning. Hosts are both clients and servers of each other with one certificate.
package pki
