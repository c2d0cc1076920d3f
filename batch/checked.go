package batch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// maxLine is how long a line of any of the formats may be, in bytes.
const maxLine = 64 << 10

// sum is what stands in the last line of a part or a pack: CRC-32C of all before that line, in hexadecimal.
func sum(crc uint32) string { return fmt.Sprintf("%08x", crc) }

// checkedWriter counts the CRC of what it writes. After an error it writes no more.
type checkedWriter struct {
	w     *bufio.Writer
	table *crc32.Table
	crc   uint32
	err   error
}

func newCheckedWriter(w io.Writer) *checkedWriter {
	return &checkedWriter{w: bufio.NewWriterSize(w, maxLine), table: crc32.MakeTable(crc32.Castagnoli)}
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	c.crc = crc32.Update(c.crc, c.table, p)
	n, err := c.w.Write(p)
	c.err = err
	return n, err
}

// line writes v as one line.
func (c *checkedWriter) line(v any) error {
	line := append(appendJSON(nil, v), '\n')
	if len(line) > maxLine {
		return fmt.Errorf("a line of %d bytes: at most %d are allowed", len(line), maxLine)
	}
	_, err := c.Write(line)
	return err
}

// checkedReader counts the CRC of what it reads.
type checkedReader struct {
	r     *bufio.Reader
	table *crc32.Table
	crc   uint32
}

func newCheckedReader(r io.Reader) *checkedReader {
	return &checkedReader{r: bufio.NewReaderSize(r, maxLine), table: crc32.MakeTable(crc32.Castagnoli)}
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.crc = crc32.Update(c.crc, c.table, p[:n])
	return n, err
}

// line returns the next line without its end, and the CRC before it. It is valid until the next read.
func (c *checkedReader) line() ([]byte, uint32, error) {
	before := c.crc
	line, err := c.r.ReadSlice('\n')
	c.crc = crc32.Update(c.crc, c.table, line)
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, before, fmt.Errorf("a line is longer than %d bytes", maxLine)
	case errors.Is(err, io.EOF):
		return nil, before, io.ErrUnexpectedEOF
	case err != nil:
		return nil, before, err
	}
	return line[:len(line)-1], before, nil
}

// end fails when anything follows.
func (c *checkedReader) end() error {
	switch _, err := c.r.ReadByte(); {
	case err == nil:
		return errors.New("something follows its last line")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// decode reads a line of ours: no other fields than those of v.
func decode(line []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}
