package logfile

import (
	"bytes"
	"strings"
	"time"
)

// Streams of a line.
const (
	Stdout = "stdout"
	Stderr = "stderr"
	// Corrupt marks what stands in a file but is not a line.
	Corrupt = "corrupt"
)

// MaxText is the most bytes of text in one line; writers split longer ones.
const MaxText = 16 << 10

// Line is one line that a container printed.
type Line struct {
	Time    time.Time
	Stream  string
	Text    string
	Attempt uint32
}

// AppendLine appends one line in the file format to dst. A new line in text is the caller's to split.
func AppendLine(dst []byte, t time.Time, stream string, text []byte) []byte {
	dst = t.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	dst = append(dst, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// parseLine parses a line without its new line character; before is the time that a corrupt line gets.
func parseLine(raw []byte, before time.Time) Line {
	if at, rest, ok := bytes.Cut(raw, []byte{' '}); ok {
		stream, text, ok := bytes.Cut(rest, []byte{' '})
		if ok && (string(stream) == Stdout || string(stream) == Stderr) {
			if t, err := time.Parse(time.RFC3339Nano, string(at)); err == nil {
				return Line{Time: t, Stream: string(stream), Text: clean(text)}
			}
		}
	}
	return Line{Time: before, Stream: Corrupt, Text: clean(raw)}
}

func clean(text []byte) string { return strings.ToValidUTF8(string(text), "\uFFFD") }
