package raftstore

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	fileSpare  = "spare"
	spareRetry = time.Second
)

// ErrDiskFull means that the data directory's disk has no room for a write; nothing was done. It is gone a second after
// there is room again.
var ErrDiskFull = errors.New("the disk of the scheduler's data directory is full: make room on it")

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// spare makes the file of the next segment ahead: full of zeros that are on the disk, since overwriting them costs
// less than making a file longer, and since a full disk is noticed while the log still has room.
type spare struct {
	path   string
	size   int64
	broken func(error) // told when it can't be made for another reason than a full disk
	full   atomic.Bool
	want   chan struct{}
	stop   chan struct{}
	done   chan struct{}

	mu   sync.Mutex // held while the file is made
	file *os.File   // nil while there is none
}

func newSpare(path string, size int64, broken func(error)) *spare {
	s := &spare{
		path: path, size: size, broken: broken,
		want: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	s.next()
	go s.run()
	return s
}

func (s *spare) run() {
	defer close(s.done)
	var retry <-chan time.Time
	for {
		select {
		case <-s.stop:
			return
		case <-s.want:
		case <-retry:
		}
		retry = nil
		switch err := s.prepare(); {
		case noSpace(err):
			retry = time.After(spareRetry)
		case err != nil:
			s.broken(err)
			return
		}
	}
}

func (s *spare) prepare() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.file, err = s.makeFile(s.size)
		s.full.Store(noSpace(err))
	}
	return err
}

// use has become give the file, or a bigger one, another name. Nobody makes the next one meanwhile.
func (s *spare) use(size int64, become func(*os.File) error) error {
	defer s.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.file
	s.file = nil
	if f != nil && size > s.size {
		if err := f.Close(); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		var err error
		if f, err = s.makeFile(size); err != nil {
			return err
		}
	}
	if err := become(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

func (s *spare) next() {
	select {
	case s.want <- struct{}{}:
	default: // it will come to it
	}
}

func (s *spare) makeFile(size int64) (_ *os.File, err error) {
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a segment of the log: %w", err)
	}
	zeros := make([]byte, min(size, 1<<20))
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(size-at, int64(len(zeros)))], at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("make a segment of the log: %w", errors.Join(err, f.Close(), os.Remove(s.path)))
	}
	return f, nil
}

func (s *spare) close() {
	close(s.stop)
	<-s.done
	if s.file != nil {
		_ = s.file.Close() // it holds nothing
	}
}
