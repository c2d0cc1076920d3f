package task

import (
	"io"
	"os"
	"sync/atomic"

	"github.com/drover-fleet/drover/batch"
)

// spool is a file of this machine that has no name any more: it goes with the process. Several goroutines may write to
// it, each where it has reserved.
type spool struct {
	file *os.File
	size atomic.Int64
}

// newSpool makes a spool in a directory.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &spool{file: f}, nil
}

// reserve answers where so many bytes may be written.
func (s *spool) reserve(n int64) extent { return extent{s.size.Add(n) - n, n} }

func (s *spool) section(e extent) *io.SectionReader { return io.NewSectionReader(s.file, e.at, e.size) }

func (s *spool) close() { _ = s.file.Close() }

// extent is a part of a spool.
type extent struct{ at, size int64 }

// ended is an item that has ended, with the part of the spool that holds its result.
type ended struct {
	batch.Outcome
	result extent
}
