package rpc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/rpc/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRegion = "test-1"

// realm is a region's certificates, for a test.
type realm struct {
	t         testing.TB
	authority *pki.Authority
	issued    map[string]*pki.Credentials
}

func newRealm(t testing.TB) *realm {
	t.Helper()
	authority, err := pki.Init(t.TempDir(), testRegion)
	if err != nil {
		t.Fatal(err)
	}
	return &realm{t, authority, map[string]*pki.Credentials{}}
}

// host returns the credentials of a host, in the zone "zone-NAME".
func (r *realm) host(name string, roles ...pki.Role) *pki.Credentials {
	r.t.Helper()
	key := fmt.Sprint(name, roles)
	if c, ok := r.issued[key]; ok {
		return c
	}
	dir := r.t.TempDir()
	if err := r.authority.Issue(dir, pki.Identity{Region: testRegion, Zone: "zone-" + name, Name: name, Roles: roles}, 0); err != nil {
		r.t.Fatal(err)
	}
	c, err := pki.OpenCredentials(dir, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.issued[key] = c
	return c
}

// serve runs a server of a host that has a role, until the test ends.
func (r *realm) serve(services Services, name string, role pki.Role) (*Server, string) {
	r.t.Helper()
	return r.serveWith(ServerOptions{Services: services}, name, role)
}

func (r *realm) serveWith(options ServerOptions, name string, role pki.Role) (*Server, string) {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	options.Credentials = r.host(name, role)
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := Serve(listener, options)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return s, listener.Addr().String()
}

// dial makes a peer of the server at an address, as a host with a role.
func (r *realm) dial(address string, server pki.Role, name string, role pki.Role) *Peer {
	r.t.Helper()
	return r.dialWith(PeerOptions{Address: address, Expected: pki.Expected{Role: server}}, name, role)
}

func (r *realm) dialWith(options PeerOptions, name string, roles ...pki.Role) *Peer {
	r.t.Helper()
	options.Credentials = r.host(name, roles...)
	options.Connect = cmp.Or(options.Connect, 20*time.Second) // the machine may be busy
	p, err := NewPeer(options)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return p
}

// manager makes a client of the manager at an address.
func (r *realm) manager(address, name string, role pki.Role) *ManagerClient {
	r.t.Helper()
	m := r.dial(address, pki.Manager, name, role).Manager()
	r.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return m
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
