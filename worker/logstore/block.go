package logstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A block holds events of one group that were flushed together:
//
//	magic  CRC-32C of the payload  length of the payload   (4 bytes each, little endian)
//	payload: head (account, group, number of events, first and last sequence number, names of streams), then the events
//
// Numbers are varints; a text is its length and its bytes. Messages stand in it as they are, so that grep -a finds them.
const (
	blockMagic    = 0x3142474c // "LGB1"
	blockPrefix   = 12
	maxBlock      = 1 << 20 // from here on a new block begins
	maxBlockBytes = maxBlock + 2*MaxMessage + 1<<16
)

var errDamaged = errors.New("a block of log events is damaged")

// blockHead is what is known of a block without its events.
type blockHead struct {
	account, group string
	count          int
	first, last    int64
	streams        []string
}

// encodeBlock appends a block with a run of events of one group, and returns how many it took.
func encodeBlock(out []byte, events []event) ([]byte, int) {
	n, size := 0, 0
	streams := map[string]uint64{}
	var names []string
	for n < len(events) && size < maxBlock {
		name := events[n].stream.name
		if _, ok := streams[name]; !ok {
			streams[name] = uint64(len(names))
			names = append(names, name)
			size += len(name) + 2
		}
		size += len(events[n].message) + 16
		n++
	}
	start := len(out)
	out = append(out, make([]byte, blockPrefix)...)
	out = appendText(out, events[0].stream.account)
	out = appendText(out, events[0].stream.group)
	out = binary.AppendUvarint(out, uint64(n))
	out = binary.AppendVarint(out, events[0].sequence)
	out = binary.AppendVarint(out, events[n-1].sequence)
	out = binary.AppendUvarint(out, uint64(len(names)))
	for _, name := range names {
		out = appendText(out, name)
	}
	previous := events[0].sequence
	for _, e := range events[:n] {
		out = binary.AppendUvarint(out, uint64(e.sequence-previous))
		out = binary.AppendVarint(out, e.time-e.sequence)
		out = binary.AppendUvarint(out, streams[e.stream.name])
		out = binary.AppendUvarint(out, uint64(len(e.message)))
		out = append(out, e.message...)
		previous = e.sequence
	}
	payload := out[start+blockPrefix:]
	binary.LittleEndian.PutUint32(out[start:], blockMagic)
	binary.LittleEndian.PutUint32(out[start+4:], crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
	binary.LittleEndian.PutUint32(out[start+8:], uint32(len(payload)))
	return out, n
}

func appendText(out []byte, text string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

// parsePrefix reads the first bytes of a block, and returns its checksum and the length of its payload.
func parsePrefix(prefix []byte) (sum uint32, length int, err error) {
	if len(prefix) < blockPrefix || binary.LittleEndian.Uint32(prefix) != blockMagic {
		return 0, 0, errDamaged
	}
	length = int(binary.LittleEndian.Uint32(prefix[8:]))
	if length > maxBlockBytes {
		return 0, 0, errDamaged
	}
	return binary.LittleEndian.Uint32(prefix[4:]), length, nil
}

// checkPayload compares a payload with its checksum.
func checkPayload(payload []byte, sum uint32) error {
	if crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return errDamaged
	}
	return nil
}

// decoder reads a payload. After a failure it gives zeros, and err is set.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) unsigned() uint64 {
	value, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.data, d.err = nil, errDamaged
		return 0
	}
	d.data = d.data[n:]
	return value
}

func (d *decoder) signed() int64 {
	value, n := binary.Varint(d.data)
	if n <= 0 {
		d.data, d.err = nil, errDamaged
		return 0
	}
	d.data = d.data[n:]
	return value
}

func (d *decoder) bytes() []byte {
	n := d.unsigned()
	if n > uint64(len(d.data)) {
		d.data, d.err = nil, errDamaged
		return nil
	}
	value := d.data[:n]
	d.data = d.data[n:]
	return value
}

// key reads what the index needs: account, group, count, first and last.
func (d *decoder) key() blockHead {
	h := blockHead{account: string(d.bytes()), group: string(d.bytes())}
	h.count = int(min(d.unsigned(), maxBlockBytes))
	h.first, h.last = d.signed(), d.signed()
	return h
}

// decodeBlock calls visit for each event of a payload until it returns false.
func decodeBlock(payload []byte, visit func(sequence, time int64, stream string, message []byte) bool) error {
	d := &decoder{data: payload}
	h := d.key()
	streams := d.unsigned()
	if d.err != nil || streams > uint64(len(d.data)) {
		return errDamaged
	}
	for range streams {
		h.streams = append(h.streams, string(d.bytes()))
	}
	sequence := h.first
	for range h.count {
		sequence += int64(d.unsigned())
		time := sequence + d.signed()
		stream := d.unsigned()
		message := d.bytes()
		if d.err != nil || stream >= uint64(len(h.streams)) {
			return errDamaged
		}
		if !visit(sequence, time, h.streams[stream], message) {
			return nil
		}
	}
	return nil
}
