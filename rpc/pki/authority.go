package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// The lifetimes of certificates. A host renews its own after two thirds.
const (
	DefaultLifetime = 7 * 24 * time.Hour
	MaxLifetime     = 90 * 24 * time.Hour

	authorityLifetime = 10 * 365 * 24 * time.Hour
	backdated         = 5 * time.Minute // for clocks that run behind
)

// What an authority keeps in its directory.
const (
	authorityCert = "ca.pem"
	authorityKey  = "ca-key.pem"
)

// Authority is a region's certificate authority. It is safe for use by many goroutines.
//
// Whoever has its key is everyone: it belongs on the hosts of the control plane and nowhere else.
type Authority struct {
	region string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	secret []byte // of the tokens
}

// Init makes a new authority for a region, in a directory that has none yet.
func Init(dir, region string) (*Authority, error) {
	if err := checkWord("region", region, labelText, maxLabel); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: "Lambent region " + region},
		URIs:      []*url.URL{{Scheme: scheme, Host: region}},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// The key goes first, and is never written over: an authority without its certificate can be completed by hand, one without
	// its key is lost.
	if err := writeNew(filepath.Join(dir, authorityKey), keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, authorityCert), encodeCert(der), 0o644); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

// OpenAuthority opens the authority that Init made.
func OpenAuthority(dir string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, authorityCert))
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, authorityKey))
	if err != nil {
		return nil, err
	}
	certs, err := decodeCerts(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, err
	}
	cert := certs[0]
	if !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) || len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme {
		return nil, fmt.Errorf("pki: %s does not hold a region's authority and its key", dir)
	}
	secret, err := tokenSecret(key)
	if err != nil {
		return nil, err
	}
	return &Authority{region: cert.URIs[0].Host, cert: cert, key: key, secret: secret}, nil
}

// Region returns the region that the authority is of.
func (a *Authority) Region() string { return a.region }

// Bundle returns the authority's certificate, in PEM.
func (a *Authority) Bundle() []byte { return encodeCert(a.cert.Raw) }

// Hash names the authority: the SHA-256 of its public key, in hex.
func (a *Authority) Hash() string { return hashOf(a.cert) }

func hashOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Issue writes a certificate and key for a host into a directory, as OpenCredentials reads it. A lifetime of 0 means
// DefaultLifetime.
func (a *Authority) Issue(dir string, id Identity, lifetime time.Duration) error {
	request, key, err := newRequest()
	if err != nil {
		return err
	}
	chain, err := a.Sign(request, id, lifetime)
	if err != nil {
		return err
	}
	return writeCredentials(dir, chain, key, a.Bundle())
}

// Sign issues a certificate for the key of a certificate request, in PEM, followed by the authority's own. Nothing else of the
// request counts: who the holder is says id. The error is for whoever asked.
func (a *Authority) Sign(request []byte, id Identity, lifetime time.Duration) ([]byte, error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < 0 || lifetime > MaxLifetime {
		return nil, fmt.Errorf("pki: a lifetime of %v: at most %v", lifetime, MaxLifetime)
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	if id.Region != a.region {
		return nil, fmt.Errorf("pki: this is the authority of %s, not of %s", a.region, id.Region)
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("pki: the certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("pki: the certificate request: %w", err)
	}
	if public, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("pki: the certificate request has a key that is not of ECDSA on P-256")
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serialNumber(), Subject: pkix.Name{CommonName: id.Name}, URIs: id.uris(),
		NotBefore: now.Add(-backdated), NotAfter: now.Add(lifetime), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if a.cert.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return append(encodeCert(der), a.Bundle()...), nil
}

// newRequest makes a key and a request for a certificate of it. A request says nothing of its maker: the authority decides that.
func newRequest() (request []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return request, key, err
}

func serialNumber() *big.Int {
	var random [16]byte
	rand.Read(random[:]) // it never fails
	random[0] = random[0]&0x7f | 0x40
	return new(big.Int).SetBytes(random[:])
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// decodeCerts reads the certificates of a PEM file, at least one, and passes over everything else.
func decodeCerts(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("pki: there is no certificate in the file")
	}
	return certs, nil
}

func decodeKey(text []byte) (*ecdsa.PrivateKey, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("pki: there is no private key in the file")
		}
		if block.Type != "PRIVATE KEY" {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		own, ok := key.(*ecdsa.PrivateKey)
		if !ok {
			return nil, errors.New("pki: the private key is not an ECDSA key")
		}
		return own, nil
	}
}
