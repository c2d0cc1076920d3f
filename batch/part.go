package batch

import (
	"bytes"
	"fmt"
	"io"
)

// PartItems is how many items a part of the index of a job's input holds at most.
const PartItems = 10_000

// Item is one input of a job.
type Item struct {
	// N is its number within the job, from 0 in the order of the input.
	N int64 `json:"n"`
	// Source is its URL, with the query of a signed link: a secret.
	Source string `json:"source"`
	// Size in bytes; -1 when the storage doesn't tell.
	Size int64 `json:"size"`
	// ETag is what the storage calls this content of it; empty when the storage doesn't tell.
	ETag string `json:"etag,omitempty"`
	// Name is that of its result: see Namer.
	Name string `json:"name"`
	// Error is why it can't be run at all, such as what is wrong with its line of the manifest.
	Error string `json:"error,omitempty"`
}

type partTrailer struct {
	CRC   string `json:"crc32c"`
	Items int64  `json:"items"`
}

// PartWriter writes a part: a line for each item, and a last one with their number and a CRC.
type PartWriter struct {
	w     *checkedWriter
	from  int64
	items int64
}

// NewPartWriter begins a part whose first item has the number from.
func NewPartWriter(w io.Writer, from int64) *PartWriter {
	return &PartWriter{w: newCheckedWriter(w), from: from}
}

// Write adds an item, whose number has to follow the last one's.
func (p *PartWriter) Write(item Item) error {
	if want := p.from + p.items; item.N != want {
		return fmt.Errorf("write an index part: item %d where %d belongs", item.N, want)
	}
	if p.items == PartItems {
		return fmt.Errorf("write an index part: it has %d items: begin another one", p.items)
	}
	if err := p.w.line(item); err != nil {
		return fmt.Errorf("write an index part: item %d: %w", item.N, err)
	}
	p.items++
	return nil
}

// Items is how many have been written.
func (p *PartWriter) Items() int64 { return p.items }

// Close writes the last line. It doesn't close the writer beneath.
func (p *PartWriter) Close() error {
	if err := p.w.line(partTrailer{sum(p.w.crc), p.items}); err != nil {
		return fmt.Errorf("write an index part: %w", err)
	}
	if err := p.w.w.Flush(); err != nil {
		return fmt.Errorf("write an index part: %w", err)
	}
	return nil
}

// ReadPart returns the items of a part whose numbers are in [from, to). first is the number of the part's first item. The
// whole part is read and checked, and only the items asked for are kept: a part that is damaged or cut off gives an error
// and no items.
func ReadPart(r io.Reader, first, from, to int64) ([]Item, error) {
	if from < first || to < from {
		return nil, fmt.Errorf("read an index part: items %d–%d of a part that begins at %d", from, to, first)
	}
	c := newCheckedReader(r)
	var items []Item
	for n := first; ; n++ {
		line, crc, err := c.line()
		if err != nil {
			return nil, fmt.Errorf("read an index part: at item %d: %w", n, err)
		}
		if bytes.HasPrefix(line, []byte(`{"crc32c":`)) {
			if err := endPart(c, line, crc, n-first); err != nil {
				return nil, fmt.Errorf("read an index part: %w", err)
			}
			if n < to {
				return nil, fmt.Errorf("read an index part: item %d is wanted, and it ends before %d", to-1, n)
			}
			return items, nil
		}
		if n < from || n >= to {
			continue
		}
		var item Item
		if err := decode(line, &item); err != nil {
			return nil, fmt.Errorf("read an index part: at item %d: %w", n, err)
		}
		if item.N != n {
			return nil, fmt.Errorf("read an index part: item %d where %d belongs", item.N, n)
		}
		items = append(items, item)
	}
}

func endPart(c *checkedReader, line []byte, crc uint32, items int64) error {
	var t partTrailer
	if err := decode(line, &t); err != nil {
		return fmt.Errorf("its last line: %w", err)
	}
	if t.Items != items {
		return fmt.Errorf("it has %d items, and its last line says %d", items, t.Items)
	}
	if got := sum(crc); t.CRC != got {
		return fmt.Errorf("it is damaged: its CRC is %s, and its last line says %s", got, t.CRC)
	}
	return c.end()
}
