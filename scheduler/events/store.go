package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	queueLimit   = 50_000           // events waiting for the disk
	flushTimeout = 30 * time.Second // for a disk that doesn't answer
)

// Store keeps events. All methods may be called by anyone, except that Append is called by one goroutine.
type Store struct {
	opts Options
	path string
	stop chan struct{}
	done sync.WaitGroup
	wake chan struct{} // one token: something to write
	now  chan struct{} // one token: write without delay

	mu       sync.Mutex
	closed   bool
	queue    []entry
	appended uint64 // highest index that was appended
	written  uint64 // highest index up to which everything is durable
	progress chan struct{}
	dropped  uint64
	watchers map[*watcher]struct{}

	file *file // used by the writer goroutine and, under file's own lock, by readers
}

// entry is one event with its place in the order.
type entry struct {
	key   eventKey
	event *fleetv1.Event
}

// Open opens the file at path, or makes it. A damaged file is moved aside, said so in the log, and
// replaced by a new one: events are not the truth about anything.
func Open(path string, opts Options) (*Store, error) {
	s := &Store{
		opts: opts.withDefaults(), path: path, stop: make(chan struct{}),
		wake: make(chan struct{}, 1), now: make(chan struct{}, 1),
		progress: make(chan struct{}), watchers: map[*watcher]struct{}{},
	}
	f, err := openFile(path)
	var damaged *damagedError
	if errors.As(err, &damaged) {
		f, err = s.replace(damaged)
	}
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	s.file, s.appended, s.written = f, f.last, f.last
	s.done.Go(s.write)
	return s, nil
}

// replace moves a damaged file aside and makes a new one.
func (s *Store) replace(why error) (*file, error) {
	aside := fmt.Sprintf("%s.corrupt-%s", s.path, s.opts.Now().UTC().Format("20060102T150405Z"))
	s.opts.Logger.Error("the events file is damaged: it is moved aside, and past events are missing",
		"file", s.path, "moved_to", aside, "error", why)
	if err := os.Rename(s.path, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("move the damaged events file aside: %w", err)
	}
	return openFile(s.path)
}

// Append takes the events that the command at index made. An index at or below the last one is a replay
// and skipped. It never waits for the disk: when too much is waiting, the oldest of it is dropped, counted by
// Dropped.
func (s *Store) Append(index uint64, evs []*fleetv1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || index <= s.appended {
		return
	}
	s.appended = index
	for i, e := range evs {
		s.queue = append(s.queue, entry{eventKey{index, uint32(i + 1)}, e})
	}
	if over := len(s.queue) - queueLimit; over > 0 {
		s.dropped += uint64(over)
		s.queue = append([]entry(nil), s.queue[over:]...)
	}
	for w := range s.watchers {
		w.offer(evs)
	}
	signal(s.wake)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Dropped counts the events that were lost because the disk didn't keep up or failed.
func (s *Store) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Queued is how many events wait for the disk.
func (s *Store) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Flush waits until everything appended up to index is durable.
func (s *Store) Flush(index uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	return s.flush(ctx, index)
}

func (s *Store) flush(ctx context.Context, index uint64) error {
	for {
		s.mu.Lock()
		written, progress, closed := s.written >= min(index, s.appended), s.progress, s.closed
		s.mu.Unlock()
		switch {
		case written:
			return nil
		case closed:
			return fmt.Errorf("flush events: %w", ErrClosed)
		}
		signal(s.now)
		select {
		case <-ctx.Done():
			return fmt.Errorf("flush events: %w", ctx.Err())
		case <-progress:
		}
	}
}

// write is the goroutine that owns the file.
func (s *Store) write() {
	prune := time.NewTicker(s.opts.PruneInterval)
	defer prune.Stop()
	for {
		select {
		case <-s.stop:
			s.writeQueue()
			return
		case <-prune.C:
			s.prune()
			continue
		case <-s.now:
		case <-s.wake:
			select {
			case <-time.After(s.opts.WriteDelay):
			case <-s.now:
			case <-s.stop:
			}
		}
		s.writeQueue()
	}
}

// writeQueue makes everything in the queue durable. What can't be written is dropped: it must not pile up.
func (s *Store) writeQueue() {
	s.mu.Lock()
	batch, index := s.queue, s.appended
	s.queue = nil
	s.mu.Unlock()
	var err error
	if len(batch) > 0 {
		if err = s.file.write(batch, s.opts.MaxCount); err != nil {
			err = s.failed(err, batch)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.dropped += uint64(len(batch))
	}
	s.written = max(s.written, index)
	close(s.progress)
	s.progress = make(chan struct{})
}

// failed replaces a damaged file and writes the batch to the new one.
func (s *Store) failed(err error, batch []entry) error {
	var damaged *damagedError
	if errors.As(err, &damaged) {
		if err = s.file.swap(func() (*file, error) { return s.replace(damaged) }); err == nil {
			err = s.file.write(batch, s.opts.MaxCount)
		}
	}
	if err != nil {
		s.opts.Logger.Error("events were lost: the events file can't be written", "file", s.path, "events", len(batch), "error", err)
	}
	return err
}

func (s *Store) prune() {
	now := s.opts.Now()
	err := s.file.prune(func(e *fleetv1.Event) (old, younger bool) {
		age := now.Sub(e.GetTime().AsTime())
		return age > s.maxAge(e), age <= min(s.opts.ServiceAge, s.opts.MaxAge)
	})
	if err != nil {
		if err = s.failed(err, nil); err != nil {
			s.opts.Logger.Error("old events can't be deleted", "file", s.path, "error", err)
		}
	}
}

func (s *Store) maxAge(e *fleetv1.Event) time.Duration {
	if len(e.GetObjects()) > 0 {
		switch e.GetObjects()[0].GetKind() {
		case fleetv1.KindService, fleetv1.KindInstance:
			return s.opts.ServiceAge
		}
	}
	return s.opts.MaxAge
}

// List answers the newest events that the query selects, oldest first.
func (s *Store) List(ctx context.Context, q Query) ([]*fleetv1.Event, error) {
	s.mu.Lock()
	upTo, closed := s.appended, s.closed
	s.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("list events: %w", ErrClosed)
	}
	if err := s.flush(ctx, upTo); err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	evs, err := s.file.list(ctx, q, upTo)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return evs, nil
}

// Close writes what is waiting and closes the file. Watchers end with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for w := range s.watchers {
		w.end(ErrClosed)
	}
	s.mu.Unlock()
	close(s.stop)
	s.done.Wait()
	return s.file.close()
}
