package archive

import (
	"fmt"
	"path"
	"strings"
)

// kind is what stands at a name.
type kind int

const (
	kindFile kind = iota + 1
	kindDir
	kindLink
)

// maxHops is how many links Linux follows for one name.
const maxHops = 40

// tree is the directory that an archive would make.
type tree struct {
	kinds map[string]kind
	links map[string]string // the targets
}

func newTree() *tree {
	return &tree{kinds: map[string]kind{".": kindDir}, links: map[string]string{}}
}

// add puts an entry at a clean name. A later entry replaces one of the same kind; a name is not both a directory and
// something else, and nothing lies below a file or a link.
func (t *tree) add(name string, k kind, target string) error {
	for parent := path.Dir(name); ; parent = path.Dir(parent) {
		known, ok := t.kinds[parent]
		if ok && known != kindDir {
			return fmt.Errorf("%w: %q lies below %q, which is no directory", ErrInvalid, name, parent)
		}
		if ok {
			break
		}
		t.kinds[parent] = kindDir
	}
	if known, ok := t.kinds[name]; ok && known != k {
		return fmt.Errorf("%w: %q is there twice, as two things", ErrInvalid, name)
	}
	t.kinds[name] = k
	if k == kindLink {
		t.links[name] = target
	}
	return nil
}

// maxWork bounds what following all links of an archive may cost, in bytes of names. Links that need more were made to need
// it.
const maxWork = 64 << 20

// escapes finds a link that leads out of the root, directly or through other links.
func (t *tree) escapes() error {
	work := maxWork
	for name, target := range t.links {
		if t.leaves(name, &work) {
			return fmt.Errorf("%w: the link %q to %q leads out of the archive", ErrInvalid, name, target)
		}
		if work < 0 {
			return fmt.Errorf("%w: its links are too tangled", ErrInvalid)
		}
	}
	return nil
}

// leaves walks the way of a link as the kernel would, element by element. A way that ends nowhere or turns in circles leads
// nowhere outside.
func (t *tree) leaves(link string, work *int) bool {
	at, rest := path.Dir(link), t.links[link]
	for hops := 0; rest != "" && *work >= 0; {
		if strings.HasPrefix(rest, "/") {
			return true
		}
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		rest = strings.TrimLeft(rest, "/")
		*work -= len(at) + len(element)
		if element == "" || element == "." {
			continue
		}
		if element == ".." {
			if at == "." {
				return true
			}
			at = path.Dir(at)
			continue
		}
		if at == "." {
			at = element
		} else {
			at += "/" + element
		}
		switch t.kinds[at] {
		case kindLink:
			if hops++; hops >= maxHops {
				return false
			}
			*work -= len(t.links[at]) + len(rest)
			rest = t.links[at] + "/" + rest
			at = path.Dir(at)
		case kindFile, 0:
			return false
		}
	}
	return false
}
