package logstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const segmentSuffix = ".log"

// groupKey names a log group.
type groupKey struct{ account, group string }

// blockRef is where a block is in its segment.
type blockRef struct {
	first  int64
	offset uint32
	length uint32 // of the payload
}

// segment is one file with its index. Blocks of a group are in the order of their sequence numbers.
type segment struct {
	path string
	file *os.File

	mu     sync.Mutex
	size   int64
	groups map[groupKey][]blockRef
	last   int64
	users  int // readers, and the store itself
}

func (g *segment) retain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users++
}

// release gives a segment up; the last one closes its file.
func (g *segment) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users--; g.users == 0 {
		g.file.Close()
	}
}

// add indexes a block.
func (g *segment) add(h blockHead, offset int64, length int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := groupKey{h.account, h.group}
	g.groups[key] = append(g.groups[key], blockRef{first: h.first, offset: uint32(offset), length: uint32(length)})
	g.last = max(g.last, h.last)
	if end := offset + blockPrefix + int64(length); end > g.size { // a segment that is read already has its size
		g.size = end
	}
}

// store appends events to the current segment, and indexes them.
func (s *Store) store(events []event) error {
	groups := map[groupKey][]event{}
	var keys []groupKey
	for _, e := range events {
		key := groupKey{e.stream.account, e.stream.group}
		if groups[key] == nil {
			keys = append(keys, key)
		}
		groups[key] = append(groups[key], e)
	}
	for _, key := range keys {
		for rest := groups[key]; len(rest) > 0; {
			block, n := encodeBlock(nil, rest)
			if err := s.storeBlock(block); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

// storeBlock appends one block. flushing is held, so that nobody else changes segments.
func (s *Store) storeBlock(block []byte) error {
	g, err := s.segmentFor(int64(len(block)))
	if err != nil {
		return err
	}
	offset := g.size
	if _, err := s.current.WriteAt(block, offset); err != nil {
		return fmt.Errorf("write log events: %w", err)
	}
	payload := block[blockPrefix:]
	d := &decoder{data: payload}
	h := d.key()
	s.mu.Lock()
	g.add(h, offset, len(payload))
	// What is indexed is in flight no more: a reader sees each event once.
	s.inFlight = slices.DeleteFunc(slices.Clone(s.inFlight), func(e event) bool {
		return e.stream.account == h.account && e.stream.group == h.group && e.sequence <= h.last
	})
	s.mu.Unlock()
	return nil
}

// segmentFor returns a segment with room for a block, and deletes the oldest when there is too much.
func (s *Store) segmentFor(block int64) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		g := s.segments[len(s.segments)-1]
		if g.size == 0 || g.size+block <= s.options.SegmentBytes {
			return g, nil
		}
		s.current.Close()
		s.current = nil
	}
	s.expireLocked()
	path := filepath.Join(s.options.Dir, fmt.Sprintf("%016x%s", s.last.Load(), segmentSuffix))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a log segment: %w", err)
	}
	reader, err := os.Open(path)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("make a log segment: %w", err)
	}
	g := &segment{path: path, file: reader, groups: map[groupKey][]blockRef{}, users: 1}
	s.current = file
	s.segments = append(s.segments, g)
	return g, nil
}

// expireLocked deletes the oldest segments, so that a new one fits.
func (s *Store) expireLocked() {
	total := s.options.SegmentBytes
	for _, g := range s.segments {
		total += g.size
	}
	for len(s.segments) > 0 && total > s.options.MaxBytes {
		g := s.segments[0]
		total -= g.size
		if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.options.Logger.Error("an old log segment cannot be deleted", "path", g.path, "error", err)
		}
		g.release()
		s.segments = s.segments[1:]
	}
}

// recover finds the segments, and reads the newest.
func (s *Store) recover() error {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), segmentSuffix)
		if _, err := strconv.ParseInt(name, 16, 64); !ok || err != nil || len(name) != 16 {
			continue
		}
		path := filepath.Join(s.options.Dir, entry.Name())
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return err
		}
		s.segments = append(s.segments, &segment{path: path, file: file, size: info.Size(), groups: map[groupKey][]blockRef{}, users: 1})
	}
	slices.SortFunc(s.segments, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	for i := len(s.segments) - 1; i >= 0 && s.last.Load() == 0; i-- {
		if err := s.segments[i].readAll(); err != nil {
			return err
		}
		s.last.Store(s.segments[i].last)
	}
	return nil
}

// readAll reads and checks a segment, and cuts what a crash left at its end.
func (g *segment) readAll() error {
	if _, err := g.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(g.file, 1<<20)
	offset := int64(0)
	for {
		h, length, err := readBlock(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errDamaged) || errors.Is(err, io.ErrUnexpectedEOF) {
			g.size = offset
			return g.file.Truncate(offset)
		}
		if err != nil {
			return err
		}
		g.add(h, offset, length)
		offset += blockPrefix + int64(length)
	}
}

// readBlock reads and checks the next block.
func readBlock(r io.Reader) (blockHead, int, error) {
	var prefix [blockPrefix]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return blockHead{}, 0, err
	}
	sum, length, err := parsePrefix(prefix[:])
	if err != nil {
		return blockHead{}, 0, err
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return blockHead{}, 0, io.ErrUnexpectedEOF
	}
	if err := checkPayload(payload, sum); err != nil {
		return blockHead{}, 0, err
	}
	d := &decoder{data: payload}
	h := d.key()
	return h, length, d.err
}

// load indexes the segments that recover has not read. They are complete, so that their blocks' heads are enough.
func (s *Store) load() {
	defer close(s.loaded)
	s.mu.Lock()
	var unread []*segment
	for _, g := range s.segments {
		if g.size > 0 && len(g.groups) == 0 {
			g.retain()
			unread = append(unread, g)
		}
	}
	s.mu.Unlock()
	for _, g := range unread {
		if err := g.readHeads(s.stop); err != nil {
			s.options.Logger.Error("a part of a log segment cannot be read", "path", g.path, "error", err)
		}
		g.release()
	}
}

// readHeads indexes a segment without reading its events.
func (g *segment) readHeads(stop <-chan struct{}) error {
	head := make([]byte, 1024) // two names of at most 512 characters do not fit: then there is no such block
	for offset := int64(0); offset < g.size; {
		select {
		case <-stop:
			return nil
		default:
		}
		n, err := g.file.ReadAt(head, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, length, err := parsePrefix(head[:n])
		if err != nil {
			return err
		}
		d := &decoder{data: head[blockPrefix:n]}
		h := d.key()
		if d.err != nil || offset+blockPrefix+int64(length) > g.size {
			return errDamaged
		}
		g.add(h, offset, length)
		offset += blockPrefix + int64(length)
	}
	return nil
}
