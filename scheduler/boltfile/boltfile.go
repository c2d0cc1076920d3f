package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// The format, as bbolt writes it on little-endian machines.
const (
	magic          = 0xED0CDAED
	version        = 2
	pageHeader     = 16
	metaSize       = 64
	branchElement  = 16
	leafElement    = 16
	bucketHeader   = 16
	flagBranch     = 0x01
	flagLeaf       = 0x02
	flagMeta       = 0x04
	flagFreelist   = 0x10
	elementBucket  = 0x01
	noFreelist     = ^uint64(0)
	maxPageSize    = 1 << 16
	maxBucketDepth = 8
)

// Check answers nil when every page in use is sound.
func Check(path string) error {
	f, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return check(f)
}

func check(f []byte) error {
	c := &checker{file: f, seen: map[uint64]bool{0: true, 1: true}}
	m, err := c.metas()
	if err != nil {
		return err
	}
	c.end = m.end
	if m.end > uint64(len(f)) || uint64(len(f)) < m.end*c.pageSize {
		return fmt.Errorf("the file is cut off: it has %d bytes of %d", len(f), m.end*c.pageSize)
	}
	if m.freelist != noFreelist {
		if err := c.freelist(m.freelist); err != nil {
			return err
		}
	}
	return c.tree(m.root, nil, nil, 0)
}

type checker struct {
	file          []byte
	pageSize, end uint64 // end: first page after those in use
	seen          map[uint64]bool
}

type meta struct{ root, freelist, end, tx uint64 }

var le = binary.LittleEndian

func (c *checker) metas() (meta, error) {
	first, size, err := c.meta(0)
	if err != nil {
		return meta{}, fmt.Errorf("meta page 0: %w", err)
	}
	c.pageSize = size
	second, other, err := c.meta(size)
	if err != nil {
		return meta{}, fmt.Errorf("meta page 1: %w", err)
	}
	if other != size {
		return meta{}, errors.New("the meta pages have different page sizes")
	}
	switch {
	case first.tx == second.tx+1:
		return first, nil
	case second.tx == first.tx+1:
		return second, nil
	}
	return meta{}, fmt.Errorf("the meta pages are of transactions %d and %d", first.tx, second.tx)
}

func (c *checker) meta(at uint64) (meta, uint64, error) {
	if uint64(len(c.file)) < at+pageHeader+metaSize {
		return meta{}, 0, errors.New("the file is cut off")
	}
	p := c.file[at:]
	b := p[pageHeader : pageHeader+metaSize]
	sum := fnv.New64a()
	sum.Write(b[:56])
	size := uint64(le.Uint32(b[8:]))
	switch {
	case le.Uint32(b) != magic:
		return meta{}, 0, errors.New("this is no bbolt file")
	case le.Uint64(b[56:]) != sum.Sum64():
		return meta{}, 0, errors.New("its checksum is wrong")
	case le.Uint32(b[4:]) != version:
		return meta{}, 0, fmt.Errorf("it has version %d", le.Uint32(b[4:]))
	case size < 1024 || size > maxPageSize:
		return meta{}, 0, fmt.Errorf("its page size is %d", size)
	case le.Uint16(p[8:]) != flagMeta || at != 0 && le.Uint64(p) != 1 || at == 0 && le.Uint64(p) != 0:
		return meta{}, 0, errors.New("its header is damaged")
	}
	return meta{root: le.Uint64(b[16:]), freelist: le.Uint64(b[32:]), end: le.Uint64(b[40:]), tx: le.Uint64(b[48:])}, size, nil
}

// page answers a page with its overflow, and marks it as used.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.end {
		return nil, fmt.Errorf("page %d doesn't exist", id)
	}
	p := c.file[id*c.pageSize:]
	if got := le.Uint64(p); got != id {
		return nil, fmt.Errorf("page %d calls itself %d", id, got)
	}
	overflow := uint64(le.Uint32(p[12:]))
	if id+overflow >= c.end {
		return nil, fmt.Errorf("page %d claims to go on for %d pages", id, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	return p[:(overflow+1)*c.pageSize], nil
}

func (c *checker) freelist(id uint64) error {
	p, err := c.page(id)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	count, from := uint64(le.Uint16(p[10:])), uint64(pageHeader)
	if count == 0xFFFF {
		count, from = le.Uint64(p[pageHeader:]), pageHeader+8
	}
	if le.Uint16(p[8:]) != flagFreelist || count > (uint64(len(p))-from)/8 {
		return fmt.Errorf("page %d is no free list", id)
	}
	for i := range count {
		free := le.Uint64(p[from+8*i:])
		if free < 2 || free >= c.end || c.seen[free] {
			return fmt.Errorf("page %d of the free list is in use or doesn't exist", free)
		}
		c.seen[free] = true
	}
	return nil
}

// tree walks the pages below id. Keys must be ascending, not below low and, when high isn't nil, below high.
func (c *checker) tree(id uint64, low, high []byte, depth int) error {
	if depth > 64 {
		return errors.New("the pages are nested too deeply")
	}
	p, err := c.page(id)
	if err != nil {
		return err
	}
	switch flags := le.Uint16(p[8:]); flags {
	case flagBranch:
		return c.branch(id, p, low, high, depth)
	case flagLeaf:
		return c.leaf(id, p, low, high, depth)
	default:
		return fmt.Errorf("page %d has type %#x", id, flags)
	}
}

func (c *checker) branch(id uint64, p, low, high []byte, depth int) error {
	count := int(le.Uint16(p[10:]))
	if count == 0 || pageHeader+count*branchElement > len(p) {
		return fmt.Errorf("page %d claims to have %d entries", id, count)
	}
	keys, children := make([][]byte, count), make([]uint64, count)
	for i := range count {
		at := pageHeader + i*branchElement
		key, err := part(p, uint64(at)+uint64(le.Uint32(p[at:])), uint64(le.Uint32(p[at+4:])))
		if err != nil {
			return fmt.Errorf("page %d, entry %d: %w", id, i, err)
		}
		keys[i], children[i] = key, le.Uint64(p[at+8:])
	}
	if err := ascending(keys, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for i, child := range children {
		end := high
		if i+1 < count {
			end = keys[i+1]
		}
		if err := c.tree(child, keys[i], end, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(id uint64, p, low, high []byte, depth int) error {
	count := int(le.Uint16(p[10:]))
	if pageHeader+count*leafElement > len(p) {
		return fmt.Errorf("page %d claims to have %d entries", id, count)
	}
	keys := make([][]byte, count)
	for i := range count {
		at := pageHeader + i*leafElement
		flags, pos := le.Uint32(p[at:]), uint64(at)+uint64(le.Uint32(p[at+4:]))
		keySize, valueSize := uint64(le.Uint32(p[at+8:])), uint64(le.Uint32(p[at+12:]))
		key, err := part(p, pos, keySize)
		if err != nil {
			return fmt.Errorf("page %d, entry %d: %w", id, i, err)
		}
		value, err := part(p, pos+keySize, valueSize)
		if err != nil {
			return fmt.Errorf("page %d, entry %d: %w", id, i, err)
		}
		keys[i] = key
		switch {
		case flags == 0:
		case flags == elementBucket && id != 0: // an inline bucket has none within it
			if err := c.bucket(value, depth); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		default:
			return fmt.Errorf("page %d, entry %d has type %#x", id, i, flags)
		}
	}
	if err := ascending(keys, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// bucket is a tree of its own, or, when small, a page within the value.
func (c *checker) bucket(value []byte, depth int) error {
	if depth > maxBucketDepth*8 || len(value) < bucketHeader {
		return errors.New("its header is damaged")
	}
	if root := le.Uint64(value); root != 0 {
		return c.tree(root, nil, nil, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || le.Uint16(inline[8:]) != flagLeaf || le.Uint64(inline) != 0 || le.Uint32(inline[12:]) != 0 {
		return errors.New("its inline page is damaged")
	}
	return c.leaf(0, inline, nil, nil, depth+1)
}

func part(p []byte, from, size uint64) ([]byte, error) {
	if from < pageHeader || from > uint64(len(p)) || size > uint64(len(p))-from {
		return nil, errors.New("it lies outside of its page")
	}
	return p[from : from+size], nil
}

func ascending(keys [][]byte, low, high []byte) error {
	for i, k := range keys {
		switch {
		case i == 0 && bytes.Compare(k, low) < 0, i > 0 && bytes.Compare(keys[i-1], k) >= 0,
			high != nil && bytes.Compare(k, high) >= 0:
			return errors.New("its keys are out of order")
		}
	}
	return nil
}
