package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Query selects lines. Zero values select everything.
type Query struct {
	Since, Until time.Time // both included
	Tail         int       // only the last so many of the lines that match; 0 all
	Follow       bool      // go on with lines as they are written
	Search       *Search
	Attempt      uint32 // 0 all attempts
}

const (
	batchLines = 256
	batchBytes = 256 << 10
	lineBuffer = MaxText + 128 // text, time and stream
)

// Read calls emit with the lines of an instance's attempts, oldest attempt first, in batches that the
// callee may keep. An instance without a directory has no lines. With Follow it ends when emit fails, when Until
// has passed, when the directory is removed, or with ctx's error.
func Read(ctx context.Context, instanceDir string, q Query, emit func([]Line) error) error {
	r := &reader{ctx: ctx, dir: instanceDir, query: q, emit: emit}
	segments, err := listSegments(instanceDir, q.Attempt)
	if err != nil {
		return err
	}
	if q.Tail > 0 {
		err = r.readTail(segments)
	} else {
		err = r.readAll(segments)
	}
	if err == nil {
		err = r.flush()
	}
	if err != nil || !q.Follow {
		return err
	}
	return r.follow()
}

// segment is one log file; they are ordered by attempt and number.
type segment struct {
	attempt uint32
	number  int
	path    string
}

func listSegments(instanceDir string, only uint32) ([]segment, error) {
	attempts, err := listAttempts(instanceDir)
	if err != nil {
		return nil, err
	}
	var segments []segment
	for _, attempt := range attempts {
		if only != 0 && attempt != only {
			continue
		}
		dir := attemptDir(instanceDir, attempt)
		numbers, err := segmentNumbers(dir)
		if err != nil {
			return nil, err
		}
		for _, number := range numbers {
			segments = append(segments, segment{attempt, number, filepath.Join(dir, segmentName(number))})
		}
	}
	return segments, nil
}

func listAttempts(instanceDir string) ([]uint32, error) {
	entries, err := os.ReadDir(instanceDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list log attempts: %w", err)
	}
	var attempts []uint32
	for _, entry := range entries {
		if n, err := strconv.ParseUint(entry.Name(), 10, 32); err == nil && entry.IsDir() {
			attempts = append(attempts, uint32(n))
		}
	}
	slices.Sort(attempts)
	return attempts, nil
}

func attemptDir(instanceDir string, attempt uint32) string {
	return filepath.Join(instanceDir, strconv.FormatUint(uint64(attempt), 10))
}

// reader is one Read: where it is and what it has not yet emitted.
type reader struct {
	ctx   context.Context
	dir   string
	query Query
	emit  func([]Line) error

	batch []Line
	bytes int

	at     segment   // the last segment that was read
	offset int64     // in it, after the last whole line
	last   time.Time // of the last line
}

func (r *reader) readAll(segments []segment) error {
	for i, seg := range segments {
		if err := r.scan(seg, 0, i < len(segments)-1, r.add); err != nil {
			return err
		}
	}
	return nil
}

// readTail reads from the newest segment backwards until it has enough lines.
func (r *reader) readTail(segments []segment) error {
	var newest *reader
	var parts [][]Line
	left := r.query.Tail
	for i := len(segments) - 1; i >= 0 && left > 0; i-- {
		ring := make([]Line, 0, min(left, 1024))
		next := 0
		one := &reader{ctx: r.ctx, query: r.query}
		err := one.scan(segments[i], 0, i < len(segments)-1, func(line Line) error {
			if len(ring) < left {
				ring = append(ring, line)
			} else {
				ring[next] = line
				next = (next + 1) % left
			}
			return nil
		})
		if err != nil {
			return err
		}
		if newest == nil {
			newest = one
		}
		part := append(ring[next:len(ring):len(ring)], ring[:next]...)
		parts = append(parts, part)
		left -= len(part)
	}
	if newest != nil {
		r.at, r.offset, r.last = newest.at, newest.offset, newest.last
	}
	for _, part := range slices.Backward(parts) {
		for _, line := range part {
			if err := r.add(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// scan calls fn with the lines of a segment that match, from an offset on. A last line without its end
// counts when the segment is final.
func (r *reader) scan(seg segment, offset int64, final bool, fn func(Line) error) error {
	r.at, r.offset = seg, offset
	file, err := os.Open(seg.path)
	if errors.Is(err, fs.ErrNotExist) { // rotated away meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer file.Close()
	if skip, err := r.skips(file, final); skip || err != nil {
		return err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	in := bufio.NewReaderSize(file, lineBuffer)
	for {
		raw, err := in.ReadSlice('\n')
		whole := err == nil || errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !whole && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		if len(raw) == 0 || (!whole && !final) {
			return nil
		}
		r.offset += int64(len(raw))
		if raw[len(raw)-1] == '\n' {
			raw = raw[:len(raw)-1]
		}
		if len(raw) == 0 {
			continue // what ended a torn line
		}
		line := parseLine(raw, r.last)
		line.Attempt = seg.attempt
		r.last = line.Time
		if !r.matches(line) {
			continue
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

// skips says that a finished segment was last written before what the query asks for.
func (r *reader) skips(file *os.File, final bool) (bool, error) {
	if r.query.Since.IsZero() || !final {
		return false, nil
	}
	info, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("read log: %w", err)
	}
	return info.ModTime().Before(r.query.Since), nil
}

func (r *reader) matches(line Line) bool {
	q := &r.query
	if !q.Since.IsZero() && line.Time.Before(q.Since) || !q.Until.IsZero() && line.Time.After(q.Until) {
		return false
	}
	return q.Search == nil || q.Search.Match(line.Text)
}

func (r *reader) add(line Line) error {
	r.batch = append(r.batch, line)
	r.bytes += len(line.Text)
	if len(r.batch) >= batchLines || r.bytes >= batchBytes {
		return r.flush()
	}
	return nil
}

func (r *reader) flush() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch, r.bytes = nil, 0
	return r.emit(batch)
}
