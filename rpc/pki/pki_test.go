package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newAuthority(t testing.TB, region string) *Authority {
	t.Helper()
	a, err := Init(t.TempDir(), region)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(name string, roles ...Role) Identity {
	return Identity{Region: "test-1", Zone: "a", Name: name, Roles: roles}
}

func issue(t testing.TB, a *Authority, id Identity, lifetime time.Duration) *Credentials {
	t.Helper()
	dir := t.TempDir()
	if err := a.Issue(dir, id, lifetime); err != nil {
		t.Fatal(err)
	}
	c, err := OpenCredentials(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shake makes a handshake in memory, and returns how it went for each side.
func shake(client, server *tls.Config) (Peer, error, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	conn := tls.Server(b, server)
	go func() {
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		if err != nil {
			b.Close()
		}
		served <- err
	}()
	c := tls.Client(a, client)
	err := c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1)) // in TLS 1.3 a refusal comes after the client's handshake
	}
	if err != nil {
		a.Close()
	}
	serverErr := <-served
	if serverErr != nil {
		return Peer{}, err, serverErr
	}
	state := conn.ConnectionState()
	peer, peerErr := PeerOf(&state)
	return peer, err, peerErr
}

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	a, err := Init(dir, "test-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, "test-1"); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second authority in one place: %v", err)
	}
	again, err := OpenAuthority(dir)
	if err != nil || again.Region() != "test-1" || again.Hash() != a.Hash() {
		t.Errorf("it was opened as %+v, %v", again, err)
	}
	if info, err := os.Stat(filepath.Join(dir, authorityKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info.Mode(), err)
	}
	request, _, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	for name, refused := range map[string]struct {
		id       Identity
		lifetime time.Duration
		request  []byte
	}{
		"another region": {Identity{Region: "other", Zone: "a", Name: "n", Roles: []Role{Worker}}, 0, request},
		"no role":        {identity("n"), 0, request},
		"unknown role":   {identity("n", "king"), 0, request},
		"a role twice":   {identity("n", Worker, Worker), 0, request},
		"a path":         {identity("n/worker/m", Worker), 0, request},
		"dots":           {identity("..", Worker), 0, request},
		"no name":        {identity("", Worker), 0, request},
		"too long":       {identity("n", Worker), MaxLifetime + 1, request},
		"ended":          {identity("n", Worker), -1, request},
		"no request":     {identity("n", Worker), 0, []byte("x")},
		"changed":        {identity("n", Worker), 0, append(slices.Clone(request[:len(request)-1]), request[len(request)-1]^1)},
	} {
		if _, err := a.Sign(refused.request, refused.id, refused.lifetime); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	// Whatever a request says of its maker, the certificate says what the authority thinks.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	greedy, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "king"}, URIs: identity("king", Control).uris(), DNSNames: []string{"king"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(greedy, identity("n", Worker), 0)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := decodeCerts(chain)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identityOf(certs[0]); err != nil || id.String() != identity("n", Worker).String() || certs[0].IsCA || len(certs[0].DNSNames) > 0 {
		t.Errorf("the certificate is of %s, %v", id, err)
	}
}

func TestHandshakes(t *testing.T) {
	a, strange := newAuthority(t, "test-1"), newAuthority(t, "test-1")
	worker, other := issue(t, a, identity("w1", Worker), 0), issue(t, a, identity("f1", FrontEnd, Control), 0)
	fake := issue(t, strange, identity("w1", Worker), 0)
	elsewhere := issue(t, strange, identity("f1", FrontEnd), 0)
	peer, clientErr, serverErr := shake(other.ClientConfig(Expected{Worker, "w1"}), worker.ServerConfig(false))
	if clientErr != nil || serverErr != nil || peer.Name != "f1" || !peer.Has(FrontEnd) || !peer.Has(Control) || peer.Has(Worker) || !peer.Expires.After(time.Now()) {
		t.Fatalf("peer %+v, %v, %v", peer, clientErr, serverErr)
	}
	old := other.ClientConfig(Expected{Worker, ""})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	naked := other.ClientConfig(Expected{Worker, ""})
	naked.GetClientCertificate = nil
	for name, pair := range map[string][2]*tls.Config{
		"another worker":                   {other.ClientConfig(Expected{Worker, "w2"}), worker.ServerConfig(false)},
		"another role":                     {other.ClientConfig(Expected{Manager, ""}), worker.ServerConfig(false)},
		"an impostor as server":            {other.ClientConfig(Expected{Worker, "w1"}), fake.ServerConfig(false)},
		"an impostor as client":            {elsewhere.ClientConfig(Expected{Worker, ""}), worker.ServerConfig(false)},
		"TLS 1.2":                          {old, worker.ServerConfig(false)},
		"no certificate":                   {naked, worker.ServerConfig(false)},
		"an impostor where none is needed": {elsewhere.ClientConfig(Expected{Worker, ""}), worker.ServerConfig(true)},
	} {
		if _, clientErr, serverErr := shake(pair[0], pair[1]); clientErr == nil || serverErr == nil {
			t.Errorf("%s: %v, %v", name, clientErr, serverErr)
		}
	}
	if _, clientErr, peerErr := shake(naked, worker.ServerConfig(true)); clientErr != nil || peerErr == nil {
		t.Errorf("without a certificate where none is needed: %v; peer %v", clientErr, peerErr)
	}
}

// A host that may issue nothing cannot: its certificate is no authority's.
func TestHostsAreNoAuthorities(t *testing.T) {
	a := newAuthority(t, "test-1")
	w := issue(t, a, identity("w1", Worker), 0)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent := w.certificate()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), URIs: identity("m", Manager).uris(),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, parent.Leaf, key.Public(), parent.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	forged := w.ClientConfig(Expected{Worker, ""})
	forged.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: append([][]byte{der}, parent.Certificate...), PrivateKey: key}, nil
	}
	if _, clientErr, serverErr := shake(forged, w.ServerConfig(false)); serverErr == nil || clientErr == nil {
		t.Errorf("a worker issued a manager's certificate: %v, %v", clientErr, serverErr)
	}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, strange := newAuthority(t, "test-1"), newAuthority(t, "test-1")
		request, _, err := newRequest()
		if err != nil {
			t.Fatal(err)
		}
		text, err := a.NewToken(Identity{Zone: "b", Roles: []Role{Worker}}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		holder := func(text string) Identity {
			t.Helper()
			chain, err := a.Admit(text, request)
			if err != nil {
				t.Fatal(err)
			}
			certs, err := decodeCerts(chain)
			if err != nil {
				t.Fatal(err)
			}
			id, err := identityOf(certs[0])
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		first, second := holder(text), holder(text+"\n")
		if first.Name == second.Name || first.Zone != "b" || !slices.Equal(first.Roles, []Role{Worker}) {
			t.Errorf("the token made %s and %s", first, second)
		}
		named, err := a.NewToken(Identity{Zone: "b", Name: "m7", Roles: []Role{Manager}}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if id := holder(named); id.Name != "m7" {
			t.Errorf("the token made %s", id)
		}
		for i := range text {
			changed := []byte(text)
			changed[i] ^= 1
			if _, err := a.Admit(string(changed), request); err == nil {
				t.Fatalf("character %d was changed: admitted", i)
			}
		}
		if _, err := strange.Admit(text, request); err == nil {
			t.Error("another authority's token was admitted")
		}
		if _, err := a.NewToken(Identity{Zone: "b", Roles: []Role{Worker}}, maxTokenTerm+1); err == nil {
			t.Error("a token for too long")
		}
		<-time.After(time.Hour + time.Second)
		if _, err := a.Admit(text, request); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("an expired token: %v", err)
		}
	})
}

// Files that change are used by the next handshake, and files that cannot be used are not.
func TestReload(t *testing.T) {
	a := newAuthority(t, "test-1")
	c, peer := issue(t, a, identity("w1", Worker), 0), issue(t, a, identity("f1", FrontEnd), 0)
	serial := func() string {
		var seen string
		config := peer.ClientConfig(Expected{Worker, "w1"})
		verify := config.VerifyConnection
		config.VerifyConnection = func(state tls.ConnectionState) error {
			seen = state.PeerCertificates[0].SerialNumber.String()
			return verify(state)
		}
		if _, clientErr, serverErr := shake(config, c.ServerConfig(false)); clientErr != nil || serverErr != nil {
			t.Fatal(clientErr, serverErr)
		}
		return seen
	}
	first := serial()
	if err := a.Issue(c.dir, identity("w1", Worker), 0); err != nil {
		t.Fatal(err)
	}
	c.looked.Store(0) // a second has passed
	second := serial()
	if first == second {
		t.Error("the new certificate is not shown")
	}
	host := filepath.Join(c.dir, hostFile)
	if err := os.WriteFile(host, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.looked.Store(0)
	if third := serial(); third != second || c.Reload() == nil {
		t.Error("a broken file is used")
	}
	if err := os.Remove(host); err != nil {
		t.Fatal(err)
	}
	c.looked.Store(0)
	if third := serial(); third != second {
		t.Error("a file that is gone is missed")
	}
}

func TestRenewIn(t *testing.T) {
	from := time.Unix(0, 0)
	until := from.Add(60 * time.Hour)
	for name, c := range map[string]struct {
		now    time.Duration
		failed bool
		drawn  float64
		want   time.Duration
	}{
		"new":         {0, false, 0.5, 40 * time.Hour},
		"early":       {0, false, 0, 37 * time.Hour},
		"late":        {50 * time.Hour, false, 0.5, 0},
		"failed":      {40 * time.Hour, true, 0.5, time.Hour},
		"failed late": {59 * time.Hour, true, 0.5, 6 * time.Minute},
		"ended":       {61 * time.Hour, true, 0.5, retryLeast},
	} {
		if got := renewIn(from.Add(c.now), from, until, c.failed, c.drawn); got.Round(time.Second) != c.want {
			t.Errorf("%s: in %v, want %v", name, got, c.want)
		}
	}
}

// A host's certificate is renewed before it ends, again and again, over failures too.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, "test-1")
		c := issue(t, a, identity("w1", Worker), DefaultLifetime)
		ctx, cancel := context.WithCancel(t.Context())
		signed, asked := 0, 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Keep(ctx, func(_ context.Context, request []byte) ([]byte, error) {
				if asked++; asked%3 != 0 {
					return nil, errors.New("the control plane is away")
				}
				signed++
				return a.Sign(request, identity("w1", Worker), DefaultLifetime)
			})
		}()
		for range 28 {
			<-time.After(24 * time.Hour)
			if left := time.Until(c.Expires()); left <= 0 {
				t.Fatalf("the certificate has ended %v ago", -left)
			}
		}
		cancel()
		<-done
		if signed < 4 || signed > 8 {
			t.Errorf("%d certificates in four weeks", signed)
		}
	})
}

// A new certificate that makes the host another one is not taken.
func TestRenewKeepsTheIdentity(t *testing.T) {
	a := newAuthority(t, "test-1")
	c := issue(t, a, identity("w1", Worker), 0)
	before, err := os.ReadFile(filepath.Join(c.dir, hostFile))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Renew(t.Context(), func(_ context.Context, request []byte) ([]byte, error) {
		return a.Sign(request, identity("w2", Worker), 0)
	})
	after, readErr := os.ReadFile(filepath.Join(c.dir, hostFile))
	if err == nil || readErr != nil || !bytes.Equal(before, after) {
		t.Errorf("error %v; the file is as it was: %v", err, bytes.Equal(before, after))
	}
}

func FuzzParseToken(f *testing.F) {
	a := newAuthority(f, "test-1")
	text, err := a.NewToken(Identity{Zone: "b", Roles: []Role{Worker}}, 0)
	if err != nil {
		f.Fatal(err)
	}
	request, _, err := newRequest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("lambent-join.e30.")
	f.Fuzz(func(t *testing.T, fuzzed string) {
		token, err := ParseToken(fuzzed)
		if err == nil && (len(token.Roles) == 0 || len(token.Authority) != 64) {
			t.Errorf("%q became %+v", fuzzed, token)
		}
		if _, err := a.Admit(fuzzed, request); err == nil && strings.TrimSpace(fuzzed) != text {
			t.Errorf("%q was admitted", fuzzed)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("lambent://test-1/a/worker/w1")
	f.Add("lambent://u:p@test-1:1/a/worker/w1?q#f")
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := identityOf(&x509.Certificate{URIs: []*url.URL{uri}})
		if err == nil && id.uris()[0].String() != uri.String() {
			t.Errorf("%q is read as %s", text, id)
		}
	})
}
