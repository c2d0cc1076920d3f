package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Options of a Writer; zero values mean the defaults.
type Options struct {
	MaxBytes int64 // of one segment; 16 MiB
	MaxFiles int   // segments kept of an attempt; 3
}

// Writer appends lines to the segments of one attempt. It is not safe for concurrent use, and an
// attempt has one at a time. It opens files when it first needs them, so making one cannot fail.
type Writer struct {
	dir     string
	opts    Options
	file    *os.File
	number  int
	size    int64
	torn    bool // the segment ends inside a line
	scratch []byte
}

// NewWriter makes a writer for an attempt's directory, which it creates when first written to. It
// starts a segment of its own: what an earlier writer left is never appended to.
func NewWriter(dir string, opts Options) *Writer {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = 16 << 20
	}
	if opts.MaxFiles <= 0 {
		opts.MaxFiles = 3
	}
	return &Writer{dir: dir, opts: opts}
}

// WriteLine writes one line; text holds no new line.
func (w *Writer) WriteLine(t time.Time, stream string, text []byte) error {
	w.scratch = AppendLine(w.scratch[:0], t, stream, text)
	_, err := w.Write(w.scratch)
	return err
}

// Write writes whole lines in the file format: all of them or, with an error, none. After an error
// the next call tries again as if nothing had happened.
func (w *Writer) Write(lines []byte) (int, error) {
	if w.file != nil && w.size > 0 && w.size+int64(len(lines)) > w.opts.MaxBytes {
		if err := w.closeFile(); err != nil {
			return 0, err
		}
	}
	if w.file == nil {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	if w.torn {
		if _, err := w.file.Write([]byte{'\n'}); err != nil {
			return 0, fmt.Errorf("end torn log line: %w", err)
		}
		w.torn = false
		w.size++
	}
	n, err := w.file.Write(lines)
	if err == nil {
		w.size += int64(n)
		return n, nil
	}
	if n > 0 {
		if cut := w.file.Truncate(w.size); cut != nil {
			w.torn = true
			w.size += int64(n)
			err = errors.Join(err, cut)
		}
	}
	return 0, fmt.Errorf("write log: %w", err)
}

// Close closes the open segment.
func (w *Writer) Close() error { return w.closeFile() }

func (w *Writer) closeFile() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file, w.size, w.torn = nil, 0, false
	if err != nil {
		return fmt.Errorf("close log segment: %w", err)
	}
	return nil
}

// next opens the segment after the highest one and removes the lowest ones that are too many.
func (w *Writer) next() error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	numbers, err := segmentNumbers(w.dir)
	if err != nil {
		return err
	}
	for len(numbers) >= w.opts.MaxFiles {
		if err := os.Remove(filepath.Join(w.dir, segmentName(numbers[0]))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old log segment: %w", err)
		}
		numbers = numbers[1:]
	}
	if len(numbers) > 0 {
		w.number = max(w.number, numbers[len(numbers)-1])
	}
	file, err := os.OpenFile(filepath.Join(w.dir, segmentName(w.number+1)), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("make log segment: %w", err)
	}
	w.number++
	w.file, w.size = file, 0
	return nil
}

const segmentSuffix = ".log"

func segmentName(number int) string { return fmt.Sprintf("%08d%s", number, segmentSuffix) }

// segmentNumbers lists a directory's segments, lowest first; a missing directory has none.
func segmentNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list log segments: %w", err)
	}
	var numbers []int
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), segmentSuffix)
		if !ok || len(name) != 8 {
			continue
		}
		if number, err := strconv.Atoi(name); err == nil && number > 0 {
			numbers = append(numbers, number) // ReadDir sorts by name, which is by number here
		}
	}
	return numbers, nil
}
