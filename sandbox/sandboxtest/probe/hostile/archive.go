package hostile

import (
	"fmt"
	"io/fs"
	"strings"
)

// Archive is an attempt that is made by what a function's code or layers hold, on the host that unpacks them.
type Archive struct {
	Name  string
	Tries string // in words that complete "it tries to"
	// Race has a directory of the tree replaced by a link to the target, again and again, while it is unpacked.
	Race bool
	// Archives returns what is unpacked one over the other, so that a file named Planted gets into a directory outside.
	Archives func(target string) [][]Entry
}

// Entry is one of an archive's files.
type Entry struct {
	Name, Content string
	Mode          fs.FileMode
}

// Planted is the name of what must not appear, and RacedDirectory that of the directory which Archive.Race replaces.
const (
	Planted        = "planted"
	RacedDirectory = "raced"
)

// Archives returns the attempts that are made by archives.
func Archives() []Archive {
	up := strings.Repeat("../", 16)
	return []Archive{
		{Name: "unpack-dotdot", Tries: "have its code unpacked outside of its directory, by .. in a name",
			Archives: func(target string) [][]Entry { return [][]Entry{{{Name: up + target[1:] + "/" + Planted}}} }},
		{Name: "unpack-absolute", Tries: "have its code unpacked outside of its directory, by an absolute name",
			Archives: func(target string) [][]Entry { return [][]Entry{{{Name: target + "/" + Planted}}} }},
		{Name: "unpack-through-link", Tries: "have a file unpacked through a symbolic link that the archive brings",
			Archives: func(target string) [][]Entry {
				return [][]Entry{{link("out", target), {Name: "out/" + Planted}}}
			}},
		{Name: "unpack-through-links", Tries: "the same through relative links that only together lead out",
			Archives: func(target string) [][]Entry {
				return [][]Entry{{{Name: "a/b/file"}, link("a/b/up", up), link("out", "a/b/up"+target), {Name: "out/" + Planted}}}
			}},
		{Name: "unpack-over-link", Tries: "have a file written over a symbolic link of the same name, whose target is to be",
			Archives: func(target string) [][]Entry {
				return [][]Entry{{link("out", target+"/"+Planted), {Name: "out", Content: "x"}}}
			}},
		{Name: "unpack-layer-through-link", Tries: "have a layer's file unpacked through a symbolic link of the layer below",
			Archives: func(target string) [][]Entry {
				return [][]Entry{{link("out", target)}, {{Name: "out/" + Planted}}}
			}},
		{Name: "unpack-race", Tries: "have files unpacked through a directory that becomes a symbolic link meanwhile", Race: true,
			Archives: func(string) [][]Entry {
				var entries []Entry
				for i := range 1500 {
					entries = append(entries, Entry{Name: fmt.Sprintf("%s/%s%d", RacedDirectory, Planted, i), Content: "x"})
				}
				return [][]Entry{entries}
			}},
	}
}

func link(name, target string) Entry {
	return Entry{Name: name, Content: target, Mode: fs.ModeSymlink | 0o777}
}
