package runtimes

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"lambent/sandbox"
)

// hostTree is the root of the file system that is shown to sandboxes: "/", or a test's.
type hostTree string

// path returns a file's path in the tree.
func (h hostTree) path(name string) string { return filepath.Join(string(h), name) }

// systemDirectories are the host's directories that functions see: programs, libraries, zones and certificates, and the parts
// of Node.js that Debian and Ubuntu keep outside of its binary. Where /bin and the like are links into /usr, the sandbox has
// the same links.
func systemDirectories() []string {
	return []string{"/usr/bin", "/usr/lib", "/usr/lib64", "/bin", "/lib", "/lib64",
		"/usr/share/zoneinfo", "/usr/share/ca-certificates", "/usr/share/pki", "/usr/local/share/ca-certificates",
		"/usr/share/nodejs/acorn", "/usr/share/nodejs/acorn-walk", "/usr/share/nodejs/cjs-module-lexer", "/usr/share/nodejs/undici"}
}

// etcFiles are those of the host's /etc that functions see: what links in /usr/bin go through, where libraries are, and what
// TLS trusts. Everything else in /etc is synthesised.
func etcFiles() []string {
	return []string{"/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
		"/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/crypto-policies"}
}

// base lists what every sandbox shows, and writes the synthesised /etc to directory etc.
func (h hostTree) base(etc string, resolver netip.Addr) ([]sandbox.Mount, error) {
	var mounts []sandbox.Mount
	for _, name := range systemDirectories() {
		info, err := os.Lstat(h.path(name))
		if err != nil || (info.Mode()&os.ModeSymlink != 0 && !strings.HasPrefix(name, "/usr/")) {
			continue
		}
		source, err := filepath.EvalSymlinks(h.path(name))
		if err != nil {
			continue
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Target: name})
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("the host has none of %s", strings.Join(systemDirectories(), " "))
	}
	mounts = append(mounts, sandbox.Mount{Source: etc, Target: "/etc"})
	if err := writeEtc(etc, resolver); err != nil {
		return nil, fmt.Errorf("write the functions' /etc: %w", err)
	}
	for _, name := range etcFiles() {
		source, err := filepath.EvalSymlinks(h.path(name))
		if err != nil {
			continue
		}
		point := filepath.Join(filepath.Dir(etc), name)
		if err := h.mountPoint(source, point); err != nil {
			return nil, fmt.Errorf("write the functions' /etc: %w", err)
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Target: name})
	}
	return mounts, nil
}

// shown reports whether a real path of the host lies in a directory that all sandboxes show.
func (h hostTree) shown(path string) bool {
	for _, name := range systemDirectories() {
		dir, err := filepath.EvalSymlinks(h.path(name))
		if err == nil && strings.HasPrefix(path, dir+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// mountPoint makes an empty file or directory for source to be mounted on.
func (h hostTree) mountPoint(source, point string) error {
	if _, err := os.Stat(point); err == nil {
		return nil
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(point, 0o755)
	}
	return writeFile(point, nil)
}

// etcContent is the synthesised /etc. The user is Lambda's.
func etcContent(resolver netip.Addr) map[string]string {
	const user = "sbx_user1051"
	names := "nameserver 169.254.100.1\noptions timeout:1 attempts:1\n" // refuses at once
	if resolver.IsValid() {
		names = "nameserver " + resolver.String() + "\noptions timeout:2 attempts:3\n"
	}
	return map[string]string{
		"passwd": "root:x:0:0:root:/root:/sbin/nologin\n" +
			user + ":x:993:990::/home/" + user + ":/sbin/nologin\n" +
			"nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
		"group":         "root:x:0:\n" + user + ":x:990:\nnobody:x:65534:\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"resolv.conf":   names,
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
		"os-release":    "NAME=\"Lambent\"\nID=lambent\nPRETTY_NAME=\"Lambent\"\n",
	}
}

// etcLinks point from where programs look to what is there.
func etcLinks() map[string]string {
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	return map[string]string{
		"localtime":                   "/usr/share/zoneinfo/UTC",
		"mtab":                        "/proc/self/mounts",
		"ssl/cert.pem":                bundle,
		"pki/tls/cert.pem":            bundle,
		"pki/tls/certs/ca-bundle.crt": bundle,
	}
}

func writeEtc(etc string, resolver netip.Addr) error {
	for name, content := range etcContent(resolver) {
		if err := writeFile(filepath.Join(etc, name), []byte(content)); err != nil {
			return err
		}
	}
	for name, target := range etcLinks() {
		link := filepath.Join(etc, name)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file that every user can read, unless it has that content already.
func writeFile(name string, content []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(name, 0o644) // whatever the umask
}
