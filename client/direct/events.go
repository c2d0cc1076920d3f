package direct

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// eventReader reads server-sent events. Lines end with "\n" or "\r\n".
type eventReader struct {
	lines *bufio.Scanner
	heard func() // called for each line, keep-alives included
}

func newEventReader(r io.Reader, heard func()) *eventReader {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLookupAnswer)
	return &eventReader{lines: s, heard: heard}
}

// event is one of a watch: an answer when it has no name.
type event struct {
	name string
	data []byte
}

// next answers the next event that has data, or io.EOF at the end of the stream.
func (e *eventReader) next() (next event, err error) {
	for e.lines.Scan() {
		e.heard()
		line := e.lines.Bytes()
		if len(line) == 0 {
			if len(next.data) > 0 {
				next.data = next.data[:len(next.data)-1] // the last line's end
				return next, nil
			}
			next = event{}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			next.name = string(value)
		case "data":
			if next.data = append(append(next.data, value...), '\n'); len(next.data) > maxLookupAnswer {
				return event{}, errTooLarge
			}
		}
	}
	switch err := e.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return event{}, errTooLarge
	case err != nil:
		return event{}, err
	}
	return event{}, io.EOF
}
