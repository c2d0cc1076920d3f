package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unicode/utf8"
)

// headSize is one sector of a disk, which a power failure leaves old or new.
const headSize = 512

// head is what a log consists of, with Raft's stable values. It is overwritten in place, so that a full disk
// doesn't keep a scheduler from voting.
type head struct {
	ID     string            `json:"id"`
	Stable map[string]string `json:"stable,omitempty"`
	First  uint64            `json:"first"` // segment
	Last   uint64            `json:"last"`  // segment, which is written to
	Used   int64             `json:"used"`  // so far at least that one's records were durable
}

// encode answers the CRC32C of the rest, the head in JSON, and zeros.
func (h head) encode() ([]byte, error) {
	for k, v := range h.Stable {
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("stable value %q is no text", k)
		}
	}
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b := make([]byte, headSize)
	if n := copy(b[4:], body); n < len(body) {
		return nil, fmt.Errorf("the stable values take %d bytes, %d are too many: does a scheduler have a very long address?", len(body), len(body)-n)
	}
	binary.BigEndian.PutUint32(b, checksum(b[4:]))
	return b, nil
}

func decodeHead(b []byte) (h head, err error) {
	switch {
	case len(b) != headSize:
		return head{}, fmt.Errorf("it has %d bytes of %d", len(b), headSize)
	case binary.BigEndian.Uint32(b) != checksum(b[4:]):
		return head{}, errors.New("its CRC32C is wrong")
	}
	if err := json.Unmarshal(bytes.TrimRight(b[4:], "\x00"), &h); err != nil {
		return head{}, err
	}
	return h, nil
}

// openHead reads the head, and keeps its file open to be written.
func openHead(path string) (_ *os.File, h head, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, head{}, &CorruptError{File: path, Err: errors.New("the file is missing")}
	}
	if err != nil {
		return nil, head{}, err
	}
	b, err := os.ReadFile(path)
	if err == nil {
		if h, err = decodeHead(b); err != nil {
			err = &CorruptError{File: path, Err: err}
		}
	}
	if err != nil {
		return nil, head{}, errors.Join(err, f.Close())
	}
	return f, h, nil
}
