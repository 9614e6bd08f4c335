package gvisor

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"lambent/sandbox/identity"
)

// pack writes a tree to an archive, owners relative to a sandbox's first ID. Sockets and named pipes are gVisor's own matter.
func pack(w io.Writer, root *os.Root, firstID uint32) error {
	archive := tar.NewWriter(w)
	links := map[uint64]string{} // by inode
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		return packOne(archive, root, name, info, links, firstID)
	})
	return errors.Join(err, archive.Close())
}

// packOne writes one file.
func packOne(archive *tar.Writer, root *os.Root, name string, info fs.FileInfo, links map[uint64]string, firstID uint32) error {
	target := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		var err error
		if target, err = root.Readlink(name); err != nil {
			return err
		}
	default:
		return nil
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid < firstID || stat.Gid < firstID {
		return fmt.Errorf("%s is owned by nobody of the sandbox", name)
	}
	header.Name, header.Format = name, tar.FormatPAX
	header.Uid, header.Gid, header.Uname, header.Gname = int(stat.Uid-firstID), int(stat.Gid-firstID), "", ""
	if header.Typeflag == tar.TypeReg && stat.Nlink > 1 {
		if first, known := links[stat.Ino]; known {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
		} else {
			links[stat.Ino] = name
		}
	}
	if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.CopyN(archive, file, header.Size)
	return err
}

// unpack writes the files of an archive that pack wrote, which nobody else could have changed, into an empty tree.
func unpack(root *os.Root, r io.Reader, firstID uint32) error {
	archive := tar.NewReader(r)
	var directories []*tar.Header // their times last, since what is put into them changes these
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = unpackOne(root, archive, header, firstID)
		}
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeDir {
			directories = append(directories, header)
		}
	}
	for i := len(directories) - 1; i >= 0; i-- {
		header := directories[i]
		if err := root.Chtimes(path.Clean(header.Name), header.ModTime, header.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// unpackOne writes one file.
func unpackOne(root *os.Root, content io.Reader, header *tar.Header, firstID uint32) error {
	if header.Uid < 0 || header.Uid >= identity.RangeIDs || header.Gid < 0 || header.Gid >= identity.RangeIDs {
		return fmt.Errorf("%s has an owner that no sandbox has", header.Name)
	}
	name, mode := path.Clean(header.Name), header.FileInfo().Mode()
	var err error
	switch header.Typeflag {
	case tar.TypeDir:
		if name != "." {
			err = root.Mkdir(name, 0o700)
		}
	case tar.TypeSymlink:
		if err = root.Symlink(header.Linkname, name); err == nil {
			return root.Lchown(name, int(firstID)+header.Uid, int(firstID)+header.Gid)
		}
	case tar.TypeLink:
		return root.Link(header.Linkname, name)
	case tar.TypeReg:
		err = writeFile(root, name, content)
	default:
		err = fmt.Errorf("%s is of a kind that is not saved", header.Name)
	}
	if err != nil {
		return err
	}
	if err := root.Lchown(name, int(firstID)+header.Uid, int(firstID)+header.Gid); err != nil {
		return err
	}
	if err := root.Chmod(name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return root.Chtimes(name, header.ModTime, header.ModTime)
}

// writeFile makes a file.
func writeFile(root *os.Root, name string, content io.Reader) error {
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
