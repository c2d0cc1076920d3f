package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A segment is a file of the log: a header, then records, then zeros up to its size, which never changes. All numbers are
// big endian. A record begins at a multiple of 8:
//
//	CRC32C (4) · length of the payload (4) · kind (1) · zeros (7) · payload · zeros
//
// The CRC covers the segment's salt and the record's place besides what follows it: bytes that were written
// somewhere else, or that a command brought along, are no record.
const (
	segmentMagic  = "droverl\x01"
	segmentHeader = 64
	recordHeader  = 16
	entryHeader   = 29
	markSize      = recordHeader + 8
	boundsSize    = recordHeader + 16
)

// Kinds of records.
const (
	kindEntry  = 1 // an entry of Raft's
	kindBounds = 2 // first and last index of the log from here on; zeros: it is empty
	kindMark   = 3 // last index: all before is durable. Written after that, and not waited for
)

// header says what came before a segment's records.
type header struct {
	Seq, Size, Salt uint64
	bounds                 // of the log where the segment begins
	_               uint64 // zero
}

// bounds are the first and the last index of the log, both 0 while it is empty.
type bounds struct{ First, Last uint64 }

func (h header) encode() []byte {
	b := make([]byte, 0, segmentHeader)
	b = append(b, segmentMagic...)
	for _, v := range []uint64{h.Seq, h.Size, h.Salt, h.First, h.Last, 0} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint64(b, uint64(checksum(b)))
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < segmentHeader {
		return header{}, errors.New("it is cut off")
	}
	if string(b[:8]) != segmentMagic {
		return header{}, errors.New("it is no segment of a log")
	}
	if binary.BigEndian.Uint64(b[56:]) != uint64(checksum(b[:56])) {
		return header{}, errors.New("its header's CRC32C is wrong")
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8+8*i:]) }
	h := header{Seq: at(0), Size: at(1), Salt: at(2), bounds: bounds{First: at(3), Last: at(4)}}
	if h.Size != uint64(len(b)) {
		return header{}, fmt.Errorf("it has %d bytes of %d", len(b), h.Size)
	}
	return h, nil
}

func padded(n int) int { return (n + 7) &^ 7 }

func recordSum(salt uint64, at int64, rec []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], salt)
	binary.BigEndian.PutUint64(place[8:], uint64(at))
	return checksumAfter(checksum(place[:]), rec[4:])
}

// sealRecord ends the record that begins at b[from:] with a gap for its header; it belongs at place at of its segment.
func sealRecord(b []byte, from int, kind byte, salt uint64, at int64) []byte {
	rec := b[from:]
	binary.BigEndian.PutUint32(rec[4:], uint32(len(rec)-recordHeader))
	rec[8] = kind
	binary.BigEndian.PutUint32(rec, recordSum(salt, at, rec))
	return append(b, make([]byte, padded(len(rec))-len(rec))...)
}

func appendNumbers(b []byte, kind byte, salt uint64, at int64, numbers ...uint64) []byte {
	from := len(b)
	b = append(b, make([]byte, recordHeader)...)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return sealRecord(b, from, kind, salt, at)
}

func entrySize(l *raft.Log) int {
	return padded(recordHeader + entryHeader + len(l.Extensions) + len(l.Data))
}

// appendEntry appends index, term, type, time of appending, length of the extensions, extensions, data.
func appendEntry(b []byte, l *raft.Log, salt uint64, at int64) []byte {
	from := len(b)
	b = append(b, make([]byte, recordHeader)...)
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var appended int64
	if !l.AppendedAt.IsZero() {
		appended = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	return sealRecord(append(append(b, l.Extensions...), l.Data...), from, kindEntry, salt, at)
}

// decodeEntry reads a record's payload; the entry keeps it.
func decodeEntry(b []byte, l *raft.Log) error {
	if len(b) < entryHeader || uint64(len(b)-entryHeader) < uint64(binary.BigEndian.Uint32(b[25:])) {
		return errors.New("it is too short")
	}
	*l = raft.Log{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Type: raft.LogType(b[16])}
	if ns := int64(binary.BigEndian.Uint64(b[17:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	rest := b[entryHeader:]
	if n := binary.BigEndian.Uint32(b[25:]); n > 0 {
		l.Extensions, rest = rest[:n:n], rest[n:]
	}
	l.Data = rest
	return nil
}

// readRecord answers the record at the begin of b, which lies at a place of a segment, and its size with the
// zeros after it; kind 0: there is none.
func readRecord(b []byte, salt uint64, at int64) (kind byte, payload []byte, size int) {
	if len(b) < recordHeader || b[8] == 0 {
		return 0, nil, 0
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if n > int64(len(b)-recordHeader) {
		return 0, nil, 0
	}
	rec := b[:recordHeader+n]
	if binary.BigEndian.Uint32(rec) != recordSum(salt, at, rec) {
		return 0, nil, 0
	}
	return rec[8], rec[recordHeader:], min(padded(len(rec)), len(b))
}

// markAfter says whether a mark lies at or after a place.
func markAfter(segment []byte, salt uint64, at int64) bool {
	for ; at+markSize <= int64(len(segment)); at += 8 {
		if segment[at+8] != kindMark {
			continue
		}
		if kind, _, _ := readRecord(segment[at:], salt, at); kind == kindMark {
			return true
		}
	}
	return false
}

// replay is a log while its segments are read, one after the other.
type replay struct {
	bounds
	from   uint64  // index of places[0]
	places []place // of the entries up to Last
	begun  bool
}

// place is where an entry is.
type place struct {
	in   *segment
	at   int64
	size int32
}

// begin takes a segment's header.
func (r *replay) begin(h header) error {
	if !r.begun {
		*r = replay{bounds: h.bounds, from: h.Last + 1, begun: true}
		return nil
	}
	if h.bounds != r.bounds {
		return fmt.Errorf("it ends with a log of entries %d to %d, the next segment begins after %d to %d", r.First, r.Last, h.First, h.Last)
	}
	return nil
}

// read takes the records of a segment, and answers where the last good one ends, and the last mark.
func (r *replay) read(in *segment, b []byte) (end, marked int64, err error) {
	marked = segmentHeader
	for at := int64(segmentHeader); ; {
		kind, payload, size := readRecord(b[at:], in.Salt, at)
		switch kind {
		case 0:
			return at, marked, nil
		case kindEntry:
			err = r.entry(payload, place{in, at, int32(size)})
		case kindBounds:
			err = r.cut(payload)
		case kindMark:
			if len(payload) != 8 || binary.BigEndian.Uint64(payload) != r.Last {
				err = errors.New("it marks another entry")
			}
			marked = at + int64(size)
		default:
			err = fmt.Errorf("it has kind %d", kind)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("record at byte %d: %w", at, err)
		}
		at += int64(size)
	}
}

func (r *replay) entry(payload []byte, p place) error {
	var l raft.Log
	if err := decodeEntry(payload, &l); err != nil {
		return err
	}
	if r.Last != 0 && l.Index != r.Last+1 || l.Index == 0 {
		return fmt.Errorf("entry %d is where entry %d belongs", l.Index, r.Last+1)
	}
	if l.Type == raft.LogCommand {
		if err := checkFrame(l.Data); err != nil {
			return fmt.Errorf("entry %d: %w", l.Index, err)
		}
	}
	if r.Last == 0 {
		r.First, r.from, r.places = l.Index, l.Index, nil
	}
	r.Last = l.Index
	r.places = append(r.places, p)
	return nil
}

func (r *replay) cut(payload []byte) error {
	if len(payload) != 16 {
		return errors.New("it is too short")
	}
	b := bounds{binary.BigEndian.Uint64(payload), binary.BigEndian.Uint64(payload[8:])}
	if b != (bounds{}) && (b.First < r.First || b.Last > r.Last || b.First > b.Last) {
		return fmt.Errorf("it leaves entries %d to %d of %d to %d", b.First, b.Last, r.First, r.Last)
	}
	r.to(b)
	return nil
}

// to leaves the entries within b, which lies within the present bounds.
func (r *replay) to(b bounds) {
	r.bounds = b
	switch {
	case b.Last == 0:
		r.from, r.places = 0, nil
		return
	case b.Last < r.from:
		r.from, r.places = b.Last+1, nil
	default:
		r.places = r.places[:b.Last-r.from+1]
	}
	if b.First > r.from {
		r.places = r.places[b.First-r.from:]
		r.from = b.First
	}
}

// whole says whether all entries were read that there must be.
func (r *replay) whole() error {
	if r.Last != 0 && r.First < r.from {
		return fmt.Errorf("entries %d to %d are missing", r.First, min(r.from-1, r.Last))
	}
	return nil
}
