package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Expected is who has to be at the other end. An empty Name means any host of the role.
type Expected struct {
	Role Role
	Name string
}

// ServerConfig returns the TLS settings of a server. Clients have to show a certificate of the region's authority, unless
// anonymous is set: then they may also show none, and the server has to tell them apart by PeerOf.
func (c *Credentials) ServerConfig(anonymous bool) *tls.Config {
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert, // VerifyConnection checks it: against the authorities as they are then
		SessionTicketsDisabled: true,                     // a session would outlive the check of a certificate
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.certificate(), nil },
		VerifyConnection: func(state tls.ConnectionState) error {
			if anonymous && len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := c.verify(state, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
	if anonymous {
		config.ClientAuth = tls.RequestClientCert
	}
	return config
}

// ClientConfig returns the TLS settings of a client, whose server has to be who is expected.
func (c *Credentials) ClientConfig(expected Expected) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		InsecureSkipVerify:   true, // addresses have no meaning here; VerifyConnection checks who it is
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate(), nil },
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := c.verify(state, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			return expected.check(id)
		},
	}
}

func (e Expected) check(id Identity) error {
	if !id.Has(e.Role) || e.Name != "" && e.Name != id.Name {
		return fmt.Errorf("pki: %s answers where the %s %s was expected", id, e.Role, e.Name)
	}
	return nil
}

// verify checks the other side's certificate against the authorities that the host trusts now.
func (c *Credentials) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (Identity, error) {
	current := c.current()
	id, err := verify(state, current.roots, usage)
	if err == nil && id.Region != current.identity.Region {
		err = fmt.Errorf("pki: %s is of another region", id)
	}
	return id, err
}

func verify(state tls.ConnectionState, roots *x509.CertPool, usage x509.ExtKeyUsage) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, errors.New("pki: the other side shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return Identity{}, fmt.Errorf("pki: %w", err)
	}
	return identityOf(leaf)
}

// Peer is who is at the other end of a connection, and until when that may be believed.
type Peer struct {
	Identity
	Expires time.Time
}

// PeerOf tells who is at the other end of a connection whose handshake has succeeded. The error tells that it showed no
// certificate.
func PeerOf(state *tls.ConnectionState) (Peer, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return Peer{}, errors.New("pki: the other side shows no certificate")
	}
	id, err := identityOf(state.PeerCertificates[0])
	return Peer{Identity: id, Expires: state.PeerCertificates[0].NotAfter}, err
}

// ClientConfig returns the TLS settings of a host that joins: it has no certificate, and trusts a server of the control plane
// whose authority is the one that the token names.
func (t Token) ClientConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection checks who it is
		VerifyConnection: func(state tls.ConnectionState) error {
			roots := x509.NewCertPool()
			for _, cert := range state.PeerCertificates {
				if cert.IsCA && hashOf(cert) == t.Authority {
					roots.AddCert(cert)
				}
			}
			id, err := verify(state, roots, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if id.Region != t.Region {
				return fmt.Errorf("pki: %s is of another region", id)
			}
			return Expected{Role: Control}.check(id)
		},
	}
}
