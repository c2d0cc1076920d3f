package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/logfile"
)

const (
	loggerBuffer = 1 << 20 // bytes that wait for a slow disk before lines are dropped
	loggerLink   = "logger"
	droppedFile  = "dropped"
)

// RunLogger is the process beside a container's shim that writes what the container prints to dir. A shim starts it
// with the container's standard output on descriptor 3, its standard error on 4, and 5 to be
// closed when the logger is ready. It returns when both have ended.
//
// It ignores every signal that can be ignored, never ends for a disk's error and never makes the
// container wait for a disk: what does not fit in its buffer, or cannot be written, is dropped and counted.
func RunLogger(dir string) error {
	if err := ignoreSignals(); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	_, _ = syscall.Setsid() // fails when it leads its session already, which is as good
	debug.SetMemoryLimit(8 << 20)
	goruntime.GOMAXPROCS(1)
	stdout, stderr, ready := os.NewFile(3, "stdout"), os.NewFile(4, "stderr"), os.NewFile(5, "ready")
	if stdout == nil || stderr == nil || ready == nil {
		return errors.New("logger: descriptors 3, 4 and 5 are not open: only a shim can start it")
	}
	l := newLogger(dir)
	l.register()
	_, _ = ready.Write([]byte{0}) // a shim that went away shows as the end of both streams
	_ = ready.Close()
	l.run(stdout, stderr)
	l.unregister()
	return nil
}

// ignoreSignals ignores what os/signal cannot: also those that mean a fault of the program when the
// kernel sends them, for which ignoring changes nothing. SIGURG, which Go's scheduler uses and ignores, stays.
func ignoreSignals() error {
	action := struct{ handler, flags, restorer, mask uintptr }{handler: 1} // SIG_IGN
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if sig == unix.SIGKILL || sig == unix.SIGSTOP || sig == unix.SIGURG {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return fmt.Errorf("ignore signal %d: %w", sig, errno)
		}
	}
	return nil
}

// logger moves lines from two streams through a bounded buffer to files.
type logger struct {
	dir     string
	writer  *logfile.Writer
	dropped *os.File // counter on the disk, made in advance; nil when that failed

	mu      sync.Mutex
	wake    sync.Cond
	pending []byte // whole lines in the file format
	lines   int    // in pending
	lost    uint64 // lines dropped
	ended   bool
}

func newLogger(dir string) *logger {
	l := &logger{dir: dir, writer: logfile.NewWriter(dir, logfile.Options{})}
	l.wake.L = &l.mu
	return l
}

// register leaves this process's identity and an empty counter in the directory. A link holds the
// identity because making one needs no free block on most file systems. Without it the logger's
// death cannot be told, but its work goes on.
func (l *logger) register() {
	_ = os.MkdirAll(l.dir, 0o755)
	link := filepath.Join(l.dir, loggerLink)
	_ = os.Remove(link)
	_ = os.Symlink(processIdentity(os.Getpid()), link)
	l.openCounter()
}

func (l *logger) openCounter() {
	file, err := os.OpenFile(filepath.Join(l.dir, droppedFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return
	}
	if _, err := file.WriteAt(fmt.Appendf(nil, "%020d\n", l.lost), 0); err != nil {
		_ = file.Close()
		return
	}
	l.dropped = file
}

func (l *logger) unregister() { _ = os.Remove(filepath.Join(l.dir, loggerLink)) }

func (l *logger) run(stdout, stderr io.Reader) {
	var readers sync.WaitGroup
	readers.Go(func() { l.read(stdout, logfile.Stdout) })
	readers.Go(func() { l.read(stderr, logfile.Stderr) })
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.write()
	}()
	readers.Wait()
	l.mu.Lock()
	l.ended = true
	l.wake.Broadcast()
	l.mu.Unlock()
	<-written
}

// read takes lines from a stream until it ends; long ones are split.
func (l *logger) read(in io.Reader, stream string) {
	buf := make([]byte, 0, logfile.MaxText)
	for {
		n, err := in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		now := time.Now()
		rest := buf
		for {
			line, after, whole := bytes.Cut(rest, []byte{'\n'})
			if !whole {
				break
			}
			l.add(now, stream, line)
			rest = after
		}
		if len(rest) == cap(buf) || err != nil && len(rest) > 0 {
			l.add(now, stream, rest)
			rest = nil
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if err != nil {
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			return
		}
	}
}

func (l *logger) add(now time.Time, stream string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending)+len(text) > loggerBuffer {
		l.lost++
		return
	}
	l.pending = logfile.AppendLine(l.pending, now, stream, text)
	l.lines++
	l.wake.Signal()
}

// write moves pending lines to the disk until the streams have ended.
func (l *logger) write() {
	var spare []byte
	var counted uint64
	for {
		l.mu.Lock()
		for len(l.pending) == 0 && !l.ended {
			l.wake.Wait()
		}
		batch, lines, lost := l.pending, l.lines, l.lost
		l.pending, l.lines = spare[:0], 0
		l.mu.Unlock()
		if len(batch) == 0 {
			l.count(lost, &counted)
			return
		}
		if _, err := l.writer.Write(batch); err != nil {
			l.mu.Lock()
			l.lost += uint64(lines)
			lost = l.lost
			l.mu.Unlock()
		}
		l.count(lost, &counted)
		spare = batch
		if cap(spare) > 64<<10 {
			spare = nil // a burst is over
		}
	}
}

// count writes the number of dropped lines over the old one, which needs no free space.
func (l *logger) count(lost uint64, counted *uint64) {
	if lost == *counted {
		return
	}
	if l.dropped == nil {
		if l.openCounter(); l.dropped == nil {
			return
		}
	}
	if _, err := l.dropped.WriteAt(fmt.Appendf(nil, "%020d\n", lost), 0); err == nil {
		*counted = lost
	}
}

// droppedLines reads a logger's counter; nil when there is none.
func droppedLines(dir string) *uint64 {
	n, err := readNumber(filepath.Join(dir, droppedFile))
	if err != nil {
		return nil
	}
	return &n
}

// processIdentity names a process so that another one with the same PID isn't taken for it.
func processIdentity(pid int) string { return strconv.Itoa(pid) + ":" + startTime(pid) }

// startTime answers when a process started, in clock ticks since the host did; "" when there is none
// or it is a zombie.
func startTime(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

// processStarted answers when a process started; the zero time when that cannot be told.
func processStarted(pid int) time.Time {
	ticks, err := strconv.ParseInt(startTime(pid), 10, 64)
	if err != nil {
		return time.Time{}
	}
	boot, err := readKeys("/proc/stat")
	if err != nil || boot["btime"] == 0 {
		return time.Time{}
	}
	const perTick = 10 * time.Millisecond // USER_HZ is 100 wherever Drover runs
	return time.Unix(int64(boot["btime"]), 0).Add(time.Duration(ticks) * perTick)
}

// loggerProcess answers the logger of a log directory: its PID when it lives, dead when it ended
// without having done its work.
func loggerProcess(dir string) (pid int, dead bool) {
	identity, err := os.Readlink(filepath.Join(dir, loggerLink))
	if err != nil {
		return 0, false
	}
	number, start, _ := strings.Cut(identity, ":")
	pid, err = strconv.Atoi(number)
	if err != nil || pid <= 1 {
		return 0, false
	}
	if start == "" || startTime(pid) != start {
		return 0, true
	}
	return pid, false
}

// loggerWatch tells when loggers end.
type loggerWatch struct {
	ended func(id, dir string)

	mu      sync.Mutex
	watched map[string]*os.File // pidfds by container
	tasks   sync.WaitGroup
	closed  bool
}

func newLoggerWatch(ended func(id, dir string)) *loggerWatch {
	return &loggerWatch{ended: ended, watched: map[string]*os.File{}}
}

// add watches the logger of a running container; again is no change. One that is dead already is reported at once.
func (w *loggerWatch) add(id, dir string) {
	pid, dead := loggerProcess(dir)
	if dead {
		w.ended(id, dir)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if pid == 0 || w.closed || w.watched[id] != nil {
		return
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return // it ended just now: with its container, or the next look finds it dead
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	w.watched[id] = file
	w.tasks.Go(func() {
		gone := awaitPidfd(file)
		w.drop(id)
		if gone {
			w.ended(id, dir)
		}
	})
}

// awaitPidfd waits without a thread of its own until the process ends (true) or the file is closed.
func awaitPidfd(file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		gone = err == nil && n > 0
		return gone
	})
	return err == nil && gone
}

func (w *loggerWatch) drop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if file := w.watched[id]; file != nil {
		_ = file.Close() // a pidfd has nothing to lose
		delete(w.watched, id)
	}
}

func (w *loggerWatch) close() {
	w.mu.Lock()
	w.closed = true
	for _, file := range w.watched {
		_ = file.Close()
	}
	w.mu.Unlock()
	w.tasks.Wait()
}

// loggerDied is called when a logger has ended. With its container that is as it should be.
func (r *Runtime) loggerDied(id, dir string) {
	if rec, ok := r.records.get(id); !ok || rec.deleting {
		return
	}
	if _, dead := loggerProcess(dir); !dead {
		return // it did its work to the end
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	st, err := r.Status(ctx, id)
	if err != nil || st.State == runtime.StateRunning || st.State == runtime.StateCreated {
		r.hub.loggerDied(id)
	}
}
