package batch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const bom = "\xef\xbb\xbf"

// errLongLine is for a line that is longer than allowed; the next one can be read all the same.
var errLongLine = errors.New("the line is too long")

// lineReader reads lines of outside data: LF or CRLF, the last one with or without, with or without a byte order mark.
type lineReader struct {
	r      *bufio.Reader
	most   int // bytes of a line
	number int // of the last line, from 1
	buf    []byte
}

func newLineReader(r io.Reader, most int) *lineReader {
	return &lineReader{r: skipBOM(r), most: most}
}

func skipBOM(r io.Reader) *bufio.Reader {
	b := bufio.NewReaderSize(r, maxLine)
	if head, err := b.Peek(len(bom)); err == nil && string(head) == bom {
		_, _ = b.Discard(len(bom)) // it is in the buffer
	}
	return b
}

// next returns the next line that isn't blank, without white space around it, until the next call. io.EOF ends the lines;
// any other error but errLongLine is the reader's.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.read()
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

func (l *lineReader) read() ([]byte, error) {
	l.buf = l.buf[:0]
	l.number++
	long, empty := false, true
	for {
		chunk, err := l.r.ReadSlice('\n')
		empty = empty && len(chunk) == 0
		if long = long || len(l.buf)+len(chunk) > l.most; !long {
			l.buf = append(l.buf, chunk...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && empty:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case long:
			return nil, errLongLine
		}
		return l.buf, nil
	}
}

// Request is one line of a JSON Lines input: the body of a request.
type Request struct {
	// Number counts requests from 1; Line is the line of the file.
	Number, Line int
	// Body is valid until the next call.
	Body []byte
	// Err is why the line can't be sent: a fault of the item, a *RowError.
	Err error
}

// Requests reads a JSON Lines input, one request a line; blank lines are passed over.
type Requests struct {
	lines  *lineReader
	number int
}

// NewRequests reads requests from r.
func NewRequests(r io.Reader) *Requests { return &Requests{lines: newLineReader(r, MaxRequestBytes)} }

// Next returns the next line. io.EOF ends the input; another error is that of the reader. A line that can't be sent has
// its reason in Err, and the next one follows.
func (r *Requests) Next() (Request, error) {
	line, err := r.lines.next()
	if err != nil && !errors.Is(err, errLongLine) {
		return Request{}, err
	}
	r.number++
	q := Request{Number: r.number, Line: r.lines.number, Body: line}
	switch {
	case err != nil:
		q.Err = &RowError{q.Number, -1, fmt.Sprintf("it is longer than %d bytes", MaxRequestBytes)}
	case !json.Valid(line):
		q.Err = &RowError{q.Number, -1, fmt.Sprintf("line %d is not JSON", q.Line)}
	}
	return q, nil
}
