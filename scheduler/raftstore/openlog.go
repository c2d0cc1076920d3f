package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const (
	fileHead      = "head"
	segmentSuffix = ".segment"
)

func (c logConfig) path(seq uint64) string {
	return filepath.Join(c.dir, fmt.Sprintf("%016x%s", seq, segmentSuffix))
}

// createLog makes the directory of an empty log at dir; it appears whole or not at all. fill may write to the log before.
func createLog(c logConfig, h head, fill func(*logStore) error) error {
	final := c.dir
	c.dir += ".new"
	if err := os.RemoveAll(c.dir); err != nil { // left by a crash
		return err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return err
	}
	h.First, h.Last, h.Used = 1, 1, segmentHeader
	b, err := h.encode()
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(c.dir, fileHead), b); err != nil {
		return err
	}
	first := make([]byte, c.segmentSize)
	copy(first, header{Seq: 1, Size: uint64(len(first)), Salt: rand.Uint64()}.encode())
	if err := writeSynced(c.path(1), first); err != nil {
		return err
	}
	if fill != nil {
		s, err := openLog(c)
		if err != nil {
			return err
		}
		if err := errors.Join(fill(s), s.Close()); err != nil {
			return err
		}
	}
	if err := errors.Join(syncDir(c.dir), os.Rename(c.dir, final)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(final))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// openLog opens an existing log and reads all of it. Any damage is a *CorruptError.
func openLog(c logConfig) (_ *logStore, err error) {
	s := &logStore{logConfig: c}
	if s.headFile, s.head, err = openHead(filepath.Join(c.dir, fileHead)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, seg := range s.segments {
				err = errors.Join(err, seg.file.Close())
			}
			err = errors.Join(err, s.headFile.Close())
		}
	}()
	if s.head.First == 0 || s.head.Last < s.head.First {
		return nil, &CorruptError{File: s.headFile.Name(), Err: fmt.Errorf("it names segments %d to %d", s.head.First, s.head.Last)}
	}
	if err := s.dropOthers(); err != nil {
		return nil, err
	}
	for seq := s.head.First; seq <= s.head.Last; seq++ {
		if err := s.openSegment(seq); err != nil {
			return nil, err
		}
	}
	if err := s.log.whole(); err != nil {
		return nil, &CorruptError{File: c.path(s.head.First), Err: err}
	}
	if err := s.settled(); err != nil {
		return nil, err
	}
	s.spare = newSpare(filepath.Join(c.dir, fileSpare), c.segmentSize, func(err error) {
		s.fail(fmt.Errorf("write the Raft log: %w", err))
	})
	return s, nil
}

// dropOthers removes files that a crash has left: segments that the head doesn't name yet or any more.
func (s *logStore) dropOthers() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		text, isSegment := strings.CutSuffix(e.Name(), segmentSuffix)
		var seq uint64
		switch {
		case e.Name() == fileSpare:
		case !isSegment:
			continue
		default:
			if _, err := fmt.Sscanf(text, "%x", &seq); err != nil || s.path(seq) != path {
				return &CorruptError{File: path, Err: errors.New("this is no name of a segment")}
			}
			if seq >= s.head.First && seq <= s.head.Last {
				continue
			}
		}
		if seq > s.head.Last { // the head would name it, had anything been written to it
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if h, err := decodeHeader(b); err == nil && markAfter(b, h.Salt, segmentHeader) {
				return &CorruptError{File: s.headFile.Name(), Err: fmt.Errorf("it is older than %s", path)}
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

func (s *logStore) openSegment(seq uint64) error {
	path := s.path(seq)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &CorruptError{File: path, Err: errors.New("the file is missing")}
	}
	if err != nil {
		return err
	}
	seg := &segment{path: path, file: f}
	s.segments = append(s.segments, seg)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if seg.header, err = decodeHeader(b); err == nil && seg.Seq != seq {
		err = fmt.Errorf("it calls itself segment %d", seg.Seq)
	}
	if err != nil {
		return &CorruptError{File: path, Err: err}
	}
	if err := s.log.begin(seg.header); err != nil {
		return &CorruptError{File: s.path(seq - 1), Err: err}
	}
	marked, err := s.readSegment(seg, b)
	if err != nil {
		return &CorruptError{File: path, Err: err}
	}
	if seq != s.head.Last {
		return nil
	}
	return s.rewrite(seg, marked, b)
}

// readSegment answers where the last mark ends.
func (s *logStore) readSegment(seg *segment, b []byte) (marked int64, err error) {
	if seg.used, marked, err = s.log.read(seg, b); err != nil {
		return 0, err
	}
	switch {
	case markAfter(b, seg.Salt, seg.used):
		return 0, fmt.Errorf("the record at byte %d is damaged: it was acknowledged, for later ones are there", seg.used)
	case seg.Seq == s.head.Last && seg.used < s.head.Used:
		return 0, fmt.Errorf("the record at byte %d is damaged: it was acknowledged, as all before byte %d", seg.used, s.head.Used)
	}
	return marked, nil
}

// rewrite puts zeros where an append has ended half done, which was never acknowledged, and writes what has no mark
// again: when its fsync has failed, the kernel takes it for clean.
func (s *logStore) rewrite(seg *segment, marked int64, b []byte) error {
	end := int64(len(b))
	for end > seg.used && b[end-1] == 0 {
		end--
	}
	if end > seg.used {
		s.logger.Warn("the last write to the Raft log was not completed, and nobody was told that it was: it is dropped",
			"file", seg.path, "at", seg.used, "bytes", end-seg.used)
		clear(b[seg.used:end])
	}
	_, err := seg.file.WriteAt(b[marked:end], marked)
	return err
}

// addSegment makes the next segment.
func (s *logStore) addSegment(size int64) (*segment, error) {
	h := header{Seq: s.head.Last + 1, Size: uint64(max(size, s.segmentSize)), Salt: rand.Uint64(), bounds: s.log.bounds}
	seg := &segment{header: h, path: s.path(h.Seq), used: segmentHeader, synced: segmentHeader}
	err := s.spare.use(int64(h.Size), func(f *os.File) error {
		seg.file = f
		if _, err := f.WriteAt(h.encode(), 0); err != nil {
			return err
		}
		if err := s.sync(f); err != nil {
			return err
		}
		if err := os.Rename(s.spare.path, seg.path); err != nil {
			return err
		}
		return syncDir(s.dir)
	})
	if noSpace(err) {
		return nil, fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return seg, s.breaks(err)
}
