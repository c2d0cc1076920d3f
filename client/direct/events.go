package direct

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// eventReader reads server-sent events, of which only the data count. Lines end with "\n" or "\r\n".
type eventReader struct {
	lines *bufio.Scanner
	heard func() // called for each line, keep-alives included
}

func newEventReader(r io.Reader, heard func()) *eventReader {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLookupAnswer)
	return &eventReader{lines: s, heard: heard}
}

// next answers the data of the next event that has any, or io.EOF at the end of the stream.
func (e *eventReader) next() ([]byte, error) {
	var data []byte
	for e.lines.Scan() {
		e.heard()
		line := e.lines.Bytes()
		if len(line) == 0 {
			if len(data) > 0 {
				return data[:len(data)-1], nil // the last line's end
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "data" {
			continue
		}
		if data = append(append(data, bytes.TrimPrefix(value, []byte(" "))...), '\n'); len(data) > maxLookupAnswer {
			return nil, errTooLarge
		}
	}
	switch err := e.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, errTooLarge
	case err != nil:
		return nil, err
	}
	return nil, io.EOF
}
