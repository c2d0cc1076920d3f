package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	maxSocket    = 100 // bytes: sun_path holds 108, containerd adds ".ttrpc"
)

// Config of a private containerd.
type Config struct {
	DataDir   string // everything it keeps; made when missing
	Binary    string // "containerd" of PATH when empty
	NoRestart bool   // leave it dead when it crashes
	Logger    *slog.Logger
}

// Daemon is a running containerd. Its methods are safe for concurrent use.
type Daemon struct {
	cfg    Config
	socket string

	stop context.CancelFunc // ends supervision
	done chan struct{}      // closed when supervision has ended

	mu  sync.Mutex
	pid int // 0: none runs
}

// Start adopts the containerd that an earlier run left in the data directory, or starts one, and waits
// until it answers, at most 30 seconds. It goes on when ctx ends later, until Stop or Detach.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Binary == "" {
		cfg.Binary = "containerd"
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("containerd's data directory: %w", err)
	}
	cfg.DataDir = dir
	d := &Daemon{cfg: cfg, socket: socketPath(dir), done: make(chan struct{})}
	for _, path := range []string{dir, filepath.Dir(d.socket)} {
		if err := os.MkdirAll(path, 0o711); err != nil {
			return nil, fmt.Errorf("containerd's data directory: %w", err)
		}
	}
	if err := os.WriteFile(d.path("config.toml"), []byte(d.config()), 0o600); err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	exited, err := d.adoptOrSpawn()
	if err != nil {
		return nil, err
	}
	if err := d.ready(ctx, exited); err != nil {
		return nil, errors.Join(err, d.end())
	}
	supervise, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	go d.supervise(supervise, exited)
	return d, nil
}

// Socket answers the path of the gRPC socket.
func (d *Daemon) Socket() string { return d.socket }

// Root answers the directory of images and snapshots.
func (d *Daemon) Root() string { return d.path("root") }

// Pid answers the process that runs now; 0 when none does.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pid
}

// Detach ends supervision and leaves containerd and its containers running for the next Start.
func (d *Daemon) Detach() {
	d.stop()
	<-d.done
}

// Stop ends containerd: SIGTERM, after 15 seconds SIGKILL. Containers keep running under their shims.
func (d *Daemon) Stop() error {
	d.Detach()
	return d.end()
}

// Remove stops containerd, unmounts what its containers left, and removes the data directory. Delete
// the containers first: processes that still run lose their files.
func (d *Daemon) Remove() error {
	if err := d.Stop(); err != nil {
		return err
	}
	if err := unmountBelow(d.cfg.DataDir); err != nil {
		return err
	}
	if err := os.RemoveAll(d.cfg.DataDir); err != nil {
		return fmt.Errorf("remove containerd's data directory: %w", err)
	}
	if filepath.Dir(d.socket) != d.cfg.DataDir {
		if err := os.RemoveAll(filepath.Dir(d.socket)); err != nil {
			return fmt.Errorf("remove containerd's socket: %w", err)
		}
	}
	return nil
}

func (d *Daemon) path(name string) string { return filepath.Join(d.cfg.DataDir, name) }

func socketPath(dir string) string {
	if path := filepath.Join(dir, "containerd.sock"); len(path) <= maxSocket {
		return path
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join("/run/drover", hex.EncodeToString(sum[:8]), "containerd.sock")
}

func (d *Daemon) config() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = %q
`, d.path("root"), d.path("state"), d.socket)
}

// adoptOrSpawn answers a channel that is closed when the process has ended.
func (d *Daemon) adoptOrSpawn() (<-chan struct{}, error) {
	pid, ok := d.running()
	if !ok {
		return d.spawn()
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return d.spawn() // it ended just now
	}
	d.setPid(pid)
	d.cfg.Logger.Info("adopted containerd", "pid", pid, "socket", d.socket)
	exited := make(chan struct{})
	go func() { // ends with the process, as a child's Wait would
		defer close(exited)
		defer unix.Close(fd)
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return exited, nil
}

// running finds the process of an earlier run.
func (d *Daemon) running() (int, bool) {
	raw, err := os.ReadFile(d.path("containerd.pid"))
	if err != nil {
		return 0, false
	}
	var pid int
	if _, err := fmt.Sscanf(string(raw), "%d\n", &pid); err != nil || pid <= 1 {
		return 0, false
	}
	return pid, d.isOurs(pid)
}

func (d *Daemon) isOurs(pid int) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(cmdline), "\x00--config\x00"+d.path("config.toml")+"\x00")
}

func (d *Daemon) spawn() (<-chan struct{}, error) {
	log, err := os.OpenFile(d.path("containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open containerd's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(d.cfg.Binary, "--config", d.path("config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	pid := cmd.Process.Pid
	if err := os.WriteFile(d.path("containerd.pid"), fmt.Appendf(nil, "%d\n", pid), 0o644); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("write containerd's pid file: %w", err)
	}
	d.setPid(pid)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		err := cmd.Wait()
		d.cfg.Logger.Info("containerd ended", "pid", pid, "error", err)
	}()
	return exited, nil
}

// ready waits until containerd answers or has ended.
func (d *Daemon) ready(ctx context.Context, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("no answer in time"))
	defer cancel()
	for {
		err := d.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-exited:
			return fmt.Errorf("containerd ended while it started; see %s", d.path("containerd.log"))
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer on %s: %w; see %s", d.socket, errors.Join(context.Cause(ctx), err), d.path("containerd.log"))
		}
	}
}

func (d *Daemon) answers(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	c, err := client.New(d.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Version(ctx)
	return err
}

// supervise starts containerd again when it ends, until ctx does.
func (d *Daemon) supervise(ctx context.Context, exited <-chan struct{}) {
	defer close(d.done)
	var pause time.Duration
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-exited:
		}
		d.setPid(0)
		if d.cfg.NoRestart {
			<-ctx.Done()
			return
		}
		if time.Since(started) > time.Minute {
			pause = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(max(2*pause, 100*time.Millisecond), 10*time.Second)
		next, err := d.spawn()
		if err != nil {
			d.cfg.Logger.Error("containerd ended and cannot be started again", "error", err)
			continue // exited is still closed: the next round tries again after the pause
		}
		d.cfg.Logger.Warn("containerd ended and was started again", "pid", d.Pid())
		exited = next
	}
}

// Restart starts containerd when none runs, for use with NoRestart, and waits until it answers.
func (d *Daemon) Restart(ctx context.Context) error {
	d.Detach()
	exited, err := d.adoptOrSpawn()
	if err != nil {
		return err
	}
	supervise, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop, d.done = stop, make(chan struct{})
	go d.supervise(supervise, exited)
	return d.ready(ctx, exited)
}

// end ends the process that runs now, if any.
func (d *Daemon) end() error {
	pid := d.Pid()
	if pid == 0 || !d.isOurs(pid) {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop containerd: %w", err)
		}
		if waitPidfd(fd, stopTimeout) {
			d.setPid(0)
			if err := os.Remove(d.path("containerd.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove containerd's pid file: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("containerd (PID %d) does not end", pid)
}

func waitPidfd(fd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			return true
		}
	}
}

func (d *Daemon) setPid(pid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pid = pid
}
