package logfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often a follower looks where it cannot be told of changes.
const pollInterval = 500 * time.Millisecond

// follow goes on after the last line that was read until the query's end.
func (r *reader) follow() error {
	ctx := r.ctx
	if !r.query.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.query.Until)
		defer cancel()
	}
	w := newWatch()
	defer w.close()
	seen := false
	for {
		w.add(r.dir)
		exists, err := r.catchUp(w)
		if err == nil {
			err = r.flush()
		}
		if err != nil {
			return err
		}
		if seen && !exists {
			return nil
		}
		seen = seen || exists
		if err := w.wait(ctx); err != nil {
			if r.ctx.Err() == nil {
				return nil // Until has passed
			}
			return err
		}
	}
}

// catchUp reads what was written since the last call. It watches the newest attempt before it lists
// segments, so that nothing written between the two is missed.
func (r *reader) catchUp(w *watch) (exists bool, err error) {
	if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	attempts, err := listAttempts(r.dir)
	if err != nil {
		return true, err
	}
	if len(attempts) > 0 {
		w.add(attemptDir(r.dir, attempts[len(attempts)-1]))
	}
	segments, err := listSegments(r.dir, r.query.Attempt)
	if err != nil {
		return true, err
	}
	for i, seg := range segments {
		offset := int64(0)
		switch {
		case seg.attempt < r.at.attempt, seg.attempt == r.at.attempt && seg.number < r.at.number:
			continue
		case seg == r.at:
			offset = r.offset
		}
		if err := r.scan(seg, offset, i < len(segments)-1, r.add); err != nil {
			return true, err
		}
	}
	return true, nil
}

// watch tells of changes in directories. Where it cannot watch one it polls.
type watch struct {
	file *os.File // inotify; nil polls
	poll bool
	buf  [4096]byte
}

func newWatch() *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watch{poll: true} // out of instances or not allowed: slower, not broken
	}
	return &watch{file: os.NewFile(uintptr(fd), "inotify")}
}

// add watches a directory; adding it again changes nothing.
func (w *watch) add(dir string) {
	w.poll = w.file == nil
	if w.file == nil {
		return
	}
	raw, err := w.file.SyscallConn()
	if err == nil {
		ctl := raw.Control(func(fd uintptr) {
			_, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_DELETE_SELF|unix.IN_DELETE|unix.IN_ONLYDIR)
		})
		err = errors.Join(err, ctl)
	}
	w.poll = err != nil
}

// wait returns after a change or, polling, after a while; its error is ctx's.
func (w *watch) wait(ctx context.Context) error {
	if w.poll {
		timer := time.NewTimer(pollInterval)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := w.file.Read(w.buf[:]); err != nil && ctx.Err() == nil {
		return fmt.Errorf("follow log: %w", err)
	}
	return ctx.Err()
}

func (w *watch) close() {
	if w.file != nil {
		_ = w.file.Close() // an inotify descriptor has nothing to lose
	}
}
