package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/hashicorp/raft"
)

// recentBytes bounds what is kept in memory of the log's end for followers and for being applied. An entry that
// places a thousand instances has a megabyte.
const (
	recentBytes = 16 << 20
	recentEntry = 512 // what is kept with each
)

var errNotFound = errors.New("not found") // Raft compares this text

// logStore keeps Raft's log and its stable values in a directory: a head and segments. After a write that has failed
// nothing is known of the disk, so nothing is written any more until the files have been read again.
type logStore struct {
	logConfig
	headFile *os.File
	spare    *spare

	writing sync.Mutex // held by one write at a time, and by no reader
	broken  error      // writing: why nothing is written any more
	buf     []byte     // writing

	mu       sync.RWMutex // guards what follows; never held while the disk is waited for, reads excepted
	head     head
	segments []*segment // from head.First to head.Last
	log      replay
	recent   recent
}

// logConfig is what a log needs to know.
type logConfig struct {
	dir         string
	segmentSize int64
	stall       *stallWatch
	fail        func(error)          // told of writes that failed; it doesn't block
	sync        func(*os.File) error // fdatasync; tests make it fail
	logger      *slog.Logger
}

// segment is an open file of the log.
type segment struct {
	header
	path   string
	file   *os.File
	used   int64 // where the next record comes
	synced int64 // so far it is durable; the last mark need not be
}

// recent are the last entries of the log.
type recent struct {
	logs  []*raft.Log
	bytes int
}

func (r *recent) add(logs []*raft.Log) {
	for _, l := range logs {
		r.logs = append(r.logs, l)
		r.bytes += recentEntry + len(l.Data)
	}
	n := 0
	for r.bytes > recentBytes && n < len(r.logs)-1 {
		r.bytes -= recentEntry + len(r.logs[n].Data)
		n++
	}
	clear(r.logs[:n])
	r.logs = r.logs[n:]
}

func (r *recent) get(index uint64) *raft.Log {
	if len(r.logs) == 0 || index < r.logs[0].Index || index > r.logs[len(r.logs)-1].Index {
		return nil
	}
	return r.logs[index-r.logs[0].Index]
}

// write runs one change of the files.
func (s *logStore) write(do func() error) error {
	defer s.stall.begin()()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.broken != nil {
		return fmt.Errorf("write the Raft log: %w", s.broken)
	}
	if err := do(); err != nil {
		return fmt.Errorf("write the Raft log: %w", err)
	}
	return nil
}

// breaks notes that a write has failed half done.
func (s *logStore) breaks(err error) error {
	if err != nil {
		s.broken = fmt.Errorf("a write to the disk has failed: %w", err)
		s.fail(fmt.Errorf("write the Raft log: %w", s.broken))
	}
	return err
}

// append writes records to the end of the log, waits for the disk, and marks them as durable.
func (s *logStore) append(records []byte, last uint64) error {
	tail := s.tail()
	if _, err := tail.file.WriteAt(records, tail.used); err != nil {
		return s.breaks(err)
	}
	if err := s.sync(tail.file); err != nil {
		return s.breaks(err)
	}
	tail.used += int64(len(records))
	tail.synced = tail.used
	mark := appendNumbers(records[:0], kindMark, tail.Salt, tail.used, last)
	if _, err := tail.file.WriteAt(mark, tail.used); err != nil {
		return s.breaks(err)
	}
	tail.used += int64(len(mark))
	return nil
}

func (s *logStore) tail() *segment { return s.segments[len(s.segments)-1] }

// putHead overwrites the head.
func (s *logStore) putHead(h head) error {
	b, err := h.encode()
	if err != nil {
		return err
	}
	if _, err := s.headFile.WriteAt(b, 0); err != nil {
		return s.breaks(err)
	}
	if err := s.sync(s.headFile); err != nil {
		return s.breaks(err)
	}
	s.mu.Lock()
	s.head = h
	s.mu.Unlock()
	return nil
}

// room makes sure that so many bytes and a mark fit into the last segment. When the disk is full it answers ErrDiskFull:
// nothing has changed then.
func (s *logStore) room(bytes int) error {
	if s.tail().used+int64(bytes)+markSize <= int64(s.tail().Size) {
		return nil
	}
	next, err := s.addSegment(segmentHeader + int64(bytes) + markSize)
	if err != nil {
		return err
	}
	h := s.head
	h.Last, h.Used = next.Seq, next.synced
	if err := s.putHead(h); err != nil {
		return errors.Join(err, next.file.Close())
	}
	s.mu.Lock()
	s.segments = append(s.segments, next)
	s.mu.Unlock()
	return nil
}

// IsMonotonic tells Raft that entries are without gaps: it clears the log when it installs a snapshot.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) bounds() bounds {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.log.bounds
}

func (s *logStore) FirstIndex() (uint64, error) { return s.bounds().First, nil }

func (s *logStore) LastIndex() (uint64, error) { return s.bounds().Last, nil }

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if index == 0 || index < s.log.First || index > s.log.Last {
		return raft.ErrLogNotFound
	}
	if have := s.recent.get(index); have != nil {
		*l = *have
		return nil
	}
	p := s.log.places[index-s.log.from]
	b := make([]byte, p.size)
	if _, err := p.in.file.ReadAt(b, p.at); err != nil {
		return fmt.Errorf("read entry %d of the Raft log: %w", index, err)
	}
	if kind, payload, _ := readRecord(b, p.in.Salt, p.at); kind == kindEntry && decodeEntry(payload, l) == nil && l.Index == index {
		return nil
	}
	return &CorruptError{File: p.in.path, Err: fmt.Errorf("entry %d at byte %d is not what was written", index, p.at)}
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	return s.write(func() error { return s.storeLogs(logs) })
}

func (s *logStore) storeLogs(logs []*raft.Log) error {
	size := 0
	for i, l := range logs {
		if before := s.log.Last + uint64(i); l.Index != before+1 && (s.log.Last != 0 || i > 0 && l.Index != logs[i-1].Index+1) {
			return fmt.Errorf("entry %d doesn't follow entry %d", l.Index, before)
		}
		size += entrySize(l)
	}
	if err := s.room(size); err != nil {
		return err
	}
	tail := s.tail()
	places := make([]place, 0, len(logs))
	b := s.buf[:0]
	for _, l := range logs {
		from, at := len(b), tail.used+int64(len(b))
		b = appendEntry(b, l, tail.Salt, at)
		places = append(places, place{tail, at, int32(len(b) - from)})
	}
	last := logs[len(logs)-1].Index
	if err := s.append(b, last); err != nil {
		return err
	}
	if s.buf = b; cap(b) > recentBytes {
		s.buf = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.Last == 0 {
		s.log.First, s.log.from, s.log.places = logs[0].Index, logs[0].Index, nil
	}
	s.log.Last = last
	s.log.places = append(s.log.places, places...)
	s.recent.add(logs)
	return nil
}

// DeleteRange deletes from one end of the log; Raft asks for nothing else.
func (s *logStore) DeleteRange(low, high uint64) error {
	return s.write(func() error {
		b := s.log.bounds
		switch {
		case b.Last == 0 || high < b.First || low > b.Last:
			return nil
		case low <= b.First && high >= b.Last:
			b = bounds{}
		case low <= b.First:
			b.First = high + 1
		case high >= b.Last:
			b.Last = low - 1
		default:
			return fmt.Errorf("entries %d to %d are in the middle of the log", low, high)
		}
		if err := s.room(boundsSize); err != nil {
			return err
		}
		if err := s.append(appendNumbers(s.buf[:0], kindBounds, s.tail().Salt, s.tail().used, b.First, b.Last), b.Last); err != nil {
			return err
		}
		s.mu.Lock()
		if b.Last != s.log.Last {
			s.recent = recent{}
		}
		s.log.to(b)
		s.mu.Unlock()
		return s.dropSegments()
	})
}

// dropSegments removes the segments before that of the first entry.
func (s *logStore) dropSegments() error {
	first := s.tail().Seq
	if len(s.log.places) > 0 {
		first = s.log.places[0].in.Seq
	}
	n := first - s.head.First
	if n == 0 {
		return nil
	}
	h := s.head
	h.First, h.Used = first, s.tail().synced
	if err := s.putHead(h); err != nil {
		return err
	}
	s.mu.Lock()
	old := s.segments[:n:n]
	s.segments = append([]*segment(nil), s.segments[n:]...)
	s.mu.Unlock()
	var errs []error
	for _, seg := range old {
		errs = append(errs, seg.file.Close(), os.Remove(seg.path))
	}
	return s.breaks(errors.Join(errs...))
}

func (s *logStore) Set(key, value []byte) error {
	return s.write(func() error {
		h := s.head
		h.Used = s.tail().synced
		if h.Stable = maps.Clone(h.Stable); h.Stable == nil {
			h.Stable = map[string]string{}
		}
		h.Stable[string(key)] = string(value)
		return s.putHead(h)
	})
}

func (s *logStore) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.head.Stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return []byte(v), nil
}

func (s *logStore) SetUint64(key []byte, value uint64) error {
	return s.Set(key, strconv.AppendUint(nil, value, 10))
}

func (s *logStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(v), 10, 64)
}

// Close writes down how far the log reaches.
func (s *logStore) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if errors.Is(s.broken, os.ErrClosed) {
		return nil
	}
	s.spare.close()
	var errs []error
	if s.broken == nil {
		errs = append(errs, s.settled())
	}
	for _, seg := range s.segments {
		errs = append(errs, seg.file.Close())
	}
	s.broken = os.ErrClosed
	return errors.Join(append(errs, s.headFile.Close())...)
}

// settled makes the last mark durable and writes down that it is.
func (s *logStore) settled() error {
	tail := s.tail()
	if err := s.sync(tail.file); err != nil {
		return s.breaks(err)
	}
	tail.synced = tail.used
	h := s.head
	h.Used = tail.synced
	return s.putHead(h)
}

func fdatasync(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sync error
	if err := c.Control(func(fd uintptr) {
		for sync = syscall.EINTR; errors.Is(sync, syscall.EINTR); {
			sync = syscall.Fdatasync(int(fd))
		}
	}); err != nil {
		return err
	}
	if sync != nil {
		return fmt.Errorf("fdatasync %s: %w", filepath.Base(f.Name()), sync)
	}
	return nil
}
