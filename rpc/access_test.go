package rpc

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// may is who may call what: the table of methods.go, written a second time by hand.
func may() map[string]string {
	all := "frontend counting manager placement worker control"
	return map[string]string{
		"catalog.watch": "frontend counting manager", "catalog.revision": "frontend",
		"manager.claim": "frontend", "manager.abandon": "frontend", "manager.return": "frontend", "manager.report": "worker placement",
		"placement.place": "manager", "placement.free": "manager", "placement.heartbeat": "worker",
		"placement.workers": "manager frontend control",
		"worker.start":      "manager", "worker.invoke": "frontend", "worker.stop": "manager", "worker.list": "manager", "worker.logs": "control",
		"blobs.open": "worker", "pki.join": "nobody " + all, "pki.renew": all, "peer.ping": all,
	}
}

// Each method is refused to each role that may not call it, before its service is asked; and to who shows no certificate.
func TestWhoMayCallWhat(t *testing.T) {
	r := newRealm(t)
	// There are no services: whoever is let in hears NotImplemented or that the message is bad.
	_, address := r.serve(Services{Authority: r.authority}, "s", pki.Control)
	if got, want := slices.Sorted(maps.Keys(table())), slices.Sorted(maps.Keys(may())); !slices.Equal(got, want) {
		t.Fatalf("the methods are %q, want %q", got, want)
	}
	anonymous := newPeer(PeerOptions{Address: address, Connect: 20 * time.Second}, mustToken(t, r.authority).ClientConfig())
	t.Cleanup(func() { _ = anonymous.Close() })
	callers := map[string]*Peer{"nobody": anonymous}
	for _, role := range pki.Roles() {
		callers[string(role)] = r.dial(address, pki.Control, "c", role)
	}
	for name, allowed := range may() {
		for who, peer := range callers {
			want := slices.Contains(strings.Fields(allowed), who)
			answer, err := peer.send(soon(t), name, bytes.NewReader([]byte("!")))
			if err == nil {
				err = answer.end(nil)
			}
			denied := err != nil && lambent.CodeOf(err) == lambent.AccessDenied && strings.Contains(err.Error(), "may not call")
			if who == "nobody" {
				denied = err != nil && lambent.CodeOf(err) == lambent.AccessDenied && strings.Contains(err.Error(), "show a certificate")
			}
			if denied == want || lambent.CodeOf(err) == lambent.Unavailable {
				t.Errorf("%s as %s: %v; may: %v", name, who, err, want)
			}
		}
	}
}

func mustToken(t testing.TB, a *pki.Authority) pki.Token {
	t.Helper()
	text, err := a.NewToken(pki.Identity{Zone: "z", Roles: []pki.Role{pki.Worker}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Every method of an interface that crosses hosts has a method on the wire.
func TestEveryMethodIsOnTheWire(t *testing.T) {
	for service, of := range map[string]reflect.Type{
		"catalog": reflect.TypeFor[lambent.Catalog](), "manager": reflect.TypeFor[lambent.Manager](), "placement": reflect.TypeFor[lambent.Placement](),
		"worker": reflect.TypeFor[lambent.Worker](), "blobs": reflect.TypeFor[lambent.Blobs](),
	} {
		for i := range of.NumMethod() {
			if name := service + "." + strings.ToLower(of.Method(i).Name); table()[name].name == "" {
				t.Errorf("there is no method %s", name)
			}
		}
	}
}

// A host speaks for itself alone, whatever it writes into its messages.
func TestHostsSpeakForThemselves(t *testing.T) {
	r := newRealm(t)
	everything := &recorder{}
	_, address := r.serve(Services{Placement: everything, Manager: everything, Worker: everything}, "s", pki.Control)
	worker := r.dial(address, pki.Control, "w1", pki.Worker)
	other := r.dial(address, pki.Control, "m1", pki.Manager)
	reports := worker.Manager()
	defer reports.Close()
	_, beat := worker.Placement().Heartbeat(soon(t), lambent.WorkerStatus{Worker: "w2", Zone: "zone-w1"})
	_, moved := worker.Placement().Heartbeat(soon(t), lambent.WorkerStatus{Worker: "w1", Zone: "zone-b"})
	_, placed := other.Placement().Place(soon(t), lambent.PlaceRequest{Manager: "m2"})
	for name, err := range map[string]error{
		"a heartbeat of another worker": beat, "a heartbeat from another zone": moved,
		"a report of another worker":  reports.Report(soon(t), lambent.WorkerReport{Worker: "w2", Lost: true}),
		"a grant for another manager": placed,
		"a start for another manager": other.Worker().Start(soon(t), lambent.StartRequest{Manager: "m2", Version: &lambent.FunctionVersion{}}),
	} {
		if lambent.CodeOf(err) != lambent.AccessDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := everything.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the services", n)
	}
}

// A client talks to nobody but whom it expects, and a server to nobody of another authority.
func TestImpostors(t *testing.T) {
	r, strange := newRealm(t), newRealm(t)
	_, address := r.serve(Services{Worker: &recorder{}}, "w1", pki.Worker)
	for name, expected := range map[string]pki.Expected{
		"another worker": {Role: pki.Worker, Name: "w2"}, "a manager": {Role: pki.Manager, Name: "w1"},
	} {
		p := r.dialWith(PeerOptions{Address: address, Expected: expected}, "f", pki.FrontEnd)
		if err := p.Ping(soon(t)); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("as %s it answered %v", name, err)
		}
		if _, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{}); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("an invoke to %s: %v", name, err)
		}
	}
	if err := strange.dial(address, pki.Worker, "f", pki.FrontEnd).Ping(soon(t)); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("a host of another region: %v", err)
	}
	if err := r.dial(address, pki.Worker, "f", pki.FrontEnd).Ping(soon(t)); err != nil {
		t.Error(err)
	}
	// Without TLS, and without a certificate, nothing is answered.
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /rpc/peer.ping HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	if text, _ := io.ReadAll(conn); bytes.Contains(text, []byte("200")) {
		t.Errorf("without TLS: %q", text)
	}
}

// A host joins with a token, renews its certificate while it serves, and is recognised throughout.
func TestJoinAndRenew(t *testing.T) {
	r := newRealm(t)
	refusal := errors.New("stolen")
	var refused string
	services := Services{Authority: r.authority, Renews: func(id pki.Identity) error {
		if id.Name == refused {
			return refusal
		}
		return nil
	}}
	_, address := r.serve(services, "control", pki.Control)
	token, err := r.authority.NewToken(pki.Identity{Zone: "a", Roles: []pki.Role{pki.Worker}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	options := PeerOptions{Address: address, Connect: 20 * time.Second}
	dir := t.TempDir()
	if err := Join(soon(t), options, token, dir); err != nil {
		t.Fatal(err)
	}
	host, err := pki.OpenCredentials(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id := host.Identity(); id.Zone != "a" || !slices.Equal(id.Roles, []pki.Role{pki.Worker}) || !strings.HasPrefix(id.Name, "worker-") {
		t.Errorf("the host is %s", id)
	}
	if err := Join(soon(t), options, token[:len(token)-3]+"AAA", t.TempDir()); lambent.CodeOf(err) != lambent.AccessDenied {
		t.Errorf("a token that was changed: %v", err)
	}
	// An impostor of the control plane does not get to see the token.
	strange := newRealm(t)
	_, trap := strange.serve(Services{Authority: strange.authority}, "control", pki.Control)
	if err := Join(soon(t), PeerOptions{Address: trap, Connect: 20 * time.Second}, token, t.TempDir()); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("another authority: %v", err)
	}
	// Nor does a worker of the region, which could use it.
	_, fellow := r.serveWith(ServerOptions{Services: Services{Authority: r.authority}}, "w", pki.Worker)
	if err := Join(soon(t), PeerOptions{Address: fellow, Connect: 20 * time.Second}, token, t.TempDir()); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("a worker: %v", err)
	}
	p, err := NewPeer(PeerOptions{Address: address, Credentials: host, Expected: pki.Expected{Role: pki.Control}, Connect: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	before := host.Expires()
	if err := host.Renew(soon(t), p.Sign); err != nil {
		t.Fatal(err)
	}
	if host.Expires().Before(before) || p.Ping(soon(t)) != nil {
		t.Errorf("the new certificate ends %v, the old one %v", host.Expires(), before)
	}
	refused = host.Identity().Name
	if err := host.Renew(soon(t), p.Sign); lambent.CodeOf(err) != lambent.AccessDenied {
		t.Errorf("a certificate that is not to be renewed: %v", err)
	}
}

// What is not a call is answered with an error, and health checks need no certificate.
func TestHealth(t *testing.T) {
	r := newRealm(t)
	sick := errors.New("the disk is full")
	var state error
	s, address := r.serveWith(ServerOptions{Ready: func() error { return state }}, "s", pki.Worker)
	p := r.dial(address, pki.Worker, "f", pki.FrontEnd)
	check := func(path string) int {
		w := &answerWriter{header: http.Header{}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Health().ServeHTTP(w, req)
		return w.status
	}
	if check("/livez") != 200 || check("/readyz") != 200 || p.Ping(soon(t)) != nil {
		t.Error("a healthy host does not say so")
	}
	state = sick
	if check("/livez") != 200 || check("/readyz") != 503 || lambent.CodeOf(p.Ping(soon(t))) != lambent.Unavailable {
		t.Error("a host that cannot serve says that it can")
	}
	state = nil
	s.Drain()
	if check("/readyz") != 503 || lambent.CodeOf(p.Ping(soon(t))) != lambent.Unavailable {
		t.Error("a host that drains says that it serves")
	}
}

// answerWriter keeps an answer's status.
type answerWriter struct {
	header http.Header
	status int
}

func (w *answerWriter) Header() http.Header { return w.header }
func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}
func (w *answerWriter) Write(p []byte) (int, error) { w.WriteHeader(http.StatusOK); return len(p), nil }
