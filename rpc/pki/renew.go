package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"
)

// Signer has an authority sign a certificate request for the host that asks.
type Signer func(ctx context.Context, request []byte) (chain []byte, err error)

const (
	retryLeast = 10 * time.Second
	retryMost  = time.Hour
)

// Renew replaces the host's certificate by a new one, with a new key.
func (c *Credentials) Renew(ctx context.Context, sign Signer) error {
	request, key, err := newRequest()
	if err != nil {
		return err
	}
	chain, err := sign(ctx, request)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	bundle, err := readFile(filepath.Join(c.dir, bundleFile))
	if err != nil {
		return err
	}
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	fresh, err := parse(append(text, bytes.TrimSpace(chain)...), bundle)
	if err != nil {
		return err
	}
	if was := c.loaded.Load().identity; fresh.identity.Name != was.Name || fresh.identity.Region != was.Region ||
		fresh.identity.Zone != was.Zone || !slices.Equal(fresh.identity.Roles, was.Roles) {
		return fmt.Errorf("pki: the new certificate is of %s, the old one of %s", fresh.identity, was)
	}
	if err := writeCredentials(c.dir, chain, key, nil); err != nil {
		return err
	}
	return c.loadLocked()
}

// Keep renews the certificate before it ends, until ctx does. A renewal that fails is logged, and tried again.
func (c *Credentials) Keep(ctx context.Context, sign Signer) {
	failed := false
	for {
		leaf := c.certificate().Leaf
		pause := renewIn(time.Now(), leaf.NotBefore, leaf.NotAfter, failed, rand.Float64())
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := c.Renew(ctx, sign)
		if failed = err != nil; failed && ctx.Err() == nil {
			c.logger.Warn("the certificate was not renewed", "until", leaf.NotAfter, "error", err)
		}
	}
}

// renewIn says when to renew next: after two thirds of a certificate's life, give or take a twentieth, so that hosts that were
// started together do not ask together; after a failure, after a tenth of what is left. drawn is in [0, 1).
func renewIn(now, from, until time.Time, failed bool, drawn float64) time.Duration {
	if failed {
		return min(max(until.Sub(now)/10, retryLeast), retryMost)
	}
	life := until.Sub(from)
	share := 2.0/3 + (drawn-0.5)/10
	return max(0, from.Add(time.Duration(share*float64(life))).Sub(now))
}

// Join writes a host's first certificate into a directory that has none, with a token. sign sends token and request to a server
// that the token's ClientConfig trusts, and returns what Authority.Admit gave.
func Join(ctx context.Context, dir, token string, sign Signer) error {
	t, err := ParseToken(token)
	if err != nil {
		return err
	}
	request, key, err := newRequest()
	if err != nil {
		return err
	}
	chain, err := sign(ctx, request)
	if err != nil {
		return err
	}
	certs, err := decodeCerts(chain)
	if err != nil {
		return err
	}
	authority := certs[len(certs)-1]
	if !authority.IsCA || hashOf(authority) != t.Authority {
		return errors.New("pki: the certificate is not of the token's authority")
	}
	return writeCredentials(dir, chain, key, encodeCert(authority.Raw))
}
