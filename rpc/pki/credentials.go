package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// What a host keeps in its directory. Certificate and key are one file, so that they are replaced together.
const (
	hostFile   = "host.pem"     // the key, the certificate and its authority's
	bundleFile = "region.pem"   // the authorities that are trusted
	lookEvery  = time.Second    // how often handshakes look whether the files have changed
	maxFile    = int64(1 << 20) // bytes
)

// Credentials are a host's certificate, its key, and the authorities that it trusts. Files that change are read again by the
// next handshake that is more than a second later: connections that stand go on, and nothing has to be restarted. It is safe
// for use by many goroutines.
type Credentials struct {
	dir    string
	logger *slog.Logger
	loaded atomic.Pointer[loaded]
	looked atomic.Int64 // when the files were last looked at, in Unix nanoseconds

	mu sync.Mutex // held to load or write files
}

// loaded is what the files held.
type loaded struct {
	identity Identity
	cert     tls.Certificate
	roots    *x509.CertPool
	stamp    string // of the files
}

// OpenCredentials reads a host's files. The logger is told of files that have changed and cannot be used; those before stay in use
// then. Nil means that nothing is logged.
func OpenCredentials(dir string, logger *slog.Logger) (*Credentials, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Credentials{dir: dir, logger: logger}
	return c, c.Reload()
}

// Identity returns who the host is.
func (c *Credentials) Identity() Identity { return c.current().identity }

// Expires returns when the host's certificate ends.
func (c *Credentials) Expires() time.Time { return c.current().cert.Leaf.NotAfter }

func (c *Credentials) certificate() *tls.Certificate { return &c.current().cert }

// current returns what is loaded, after a look at the files if the last one is some time ago.
func (c *Credentials) current() *loaded {
	now := time.Now().UnixNano()
	if last := c.looked.Load(); now-last >= int64(lookEvery) && c.looked.CompareAndSwap(last, now) && c.stamp() != c.loaded.Load().stamp {
		if err := c.Reload(); err != nil {
			c.logger.Error("changed certificates cannot be used", "dir", c.dir, "error", err)
		}
	}
	return c.loaded.Load()
}

// stamp changes when a file does.
func (c *Credentials) stamp() string {
	var all string
	for _, name := range []string{hostFile, bundleFile} {
		info, err := os.Stat(filepath.Join(c.dir, name))
		if err != nil {
			return all // it is being looked for again
		}
		all += fmt.Sprintf("%d %d;", info.ModTime().UnixNano(), info.Size())
	}
	return all
}

// Reload reads the files now.
func (c *Credentials) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loadLocked()
}

func (c *Credentials) loadLocked() error {
	c.looked.Store(time.Now().UnixNano())
	stamp := c.stamp()
	host, err := readFile(filepath.Join(c.dir, hostFile))
	if err != nil {
		return err
	}
	bundle, err := readFile(filepath.Join(c.dir, bundleFile))
	if err != nil {
		return err
	}
	fresh, err := parse(host, bundle)
	if err != nil {
		return fmt.Errorf("%w (in %s)", err, c.dir)
	}
	if before := c.loaded.Load(); before != nil && before.identity.Region != fresh.identity.Region {
		return errors.New("pki: the host's new certificate is of another region")
	}
	fresh.stamp = stamp
	c.loaded.Store(fresh)
	return nil
}

// parse makes credentials of what the files hold.
func parse(host, bundle []byte) (*loaded, error) {
	key, err := decodeKey(host)
	if err != nil {
		return nil, err
	}
	chain, err := decodeCerts(host)
	if err != nil {
		return nil, err
	}
	trusted, err := decodeCerts(bundle)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("pki: the certificate is of another key")
	}
	fresh := &loaded{cert: tls.Certificate{PrivateKey: key, Leaf: chain[0]}, roots: x509.NewCertPool()}
	for _, cert := range chain {
		fresh.cert.Certificate = append(fresh.cert.Certificate, cert.Raw)
	}
	for _, cert := range trusted {
		fresh.roots.AddCert(cert)
	}
	fresh.identity, err = identityOf(chain[0])
	return fresh, err
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("pki: %s has more than %d bytes", name, maxFile)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

// writeCredentials writes a host's files. The authorities go first: a certificate of one that the host does not know is of no use.
func writeCredentials(dir string, chain []byte, key *ecdsa.PrivateKey, bundle []byte) error {
	text, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if bundle != nil {
		if err := replace(filepath.Join(dir, bundleFile), bundle, 0o644); err != nil {
			return err
		}
	}
	return replace(filepath.Join(dir, hostFile), append(text, bytes.TrimSpace(chain)...), 0o600)
}

// replace puts a file in the place of another, so that at any time there is one or the other.
func replace(name string, content []byte, mode os.FileMode) error {
	fresh := name + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // what a host that died left behind may have another mode
	}
	if err := writeNew(fresh, content, mode); err != nil {
		return err
	}
	if err := os.Rename(fresh, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// writeNew writes a file that is not there yet, down to the disk.
func writeNew(name string, content []byte, mode os.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
