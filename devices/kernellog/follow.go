package kernellog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// Device is where the kernel's log is.
const Device = "/dev/kmsg"

// longestRecord holds what the kernel gives at once: 2 KiB by its own limit (PRINTK_MESSAGE_MAX), and more in
// old kernels.
const longestRecord = 16 << 10

// Config of Follow. Only Logger is needed.
type Config struct {
	Path   string // Device when empty
	Logger *slog.Logger
	// Open answers a source of records, one a read, positioned behind the last one, instead of Path. Closing
	// it must end a read that waits.
	Open func() (io.ReadCloser, error)
}

// Follow calls f with each message from now on until ctx ends, and then answers nil. A host without a
// kernel log, or one that we may not read, is told in one line: then Follow waits for ctx.
func Follow(ctx context.Context, cfg Config, f func(Message)) error {
	if cfg.Path == "" {
		cfg.Path = Device
	}
	if cfg.Open == nil {
		cfg.Open = func() (io.ReadCloser, error) { return openEnd(cfg.Path) }
	}
	log, err := cfg.Open()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		cfg.Logger.Warn("the kernel's log can't be read: device faults are known from the drivers' libraries alone", "path", cfg.Path, "error", err)
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	var once sync.Once
	shut := func() { once.Do(func() { log.Close() }) }
	defer shut()
	defer context.AfterFunc(ctx, shut)()
	err = read(ctx, log, cfg.Logger, f)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("read the kernel's log: %w", err)
}

func read(ctx context.Context, log io.Reader, logger *slog.Logger, f func(Message)) error {
	buf := make([]byte, longestRecord)
	gaps := 0
	for ctx.Err() == nil {
		n, err := log.Read(buf)
		switch {
		case errors.Is(err, syscall.EPIPE): // records were overwritten; the next read goes on behind them
			if gaps++; gaps&(gaps-1) == 0 { // 1, 2, 4, 8, …
				logger.Warn("the kernel's log was overwritten before it was read: device faults may have been missed", "times", gaps)
			}
			continue
		case errors.Is(err, syscall.EINVAL): // a record longer than buf, which is skipped
			continue
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		}
		if m, ok := ParseRecord(buf[:n]); ok {
			f(m)
		}
	}
	return ctx.Err()
}

// openEnd opens the log behind its last record, or a pipe of records. It doesn't block, so that closing ends a
// read that waits.
func openEnd(path string) (io.ReadCloser, error) {
	log, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := log.Seek(0, io.SeekEnd); err != nil && !errors.Is(err, syscall.ESPIPE) {
		log.Close()
		return nil, err
	}
	return log, nil
}
