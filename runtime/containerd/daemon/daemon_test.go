package daemon

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func need(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root: containerd mounts file systems")
	}
	if _, err := exec.LookPath("containerd"); err != nil {
		t.Skip("SKIPPED: needs containerd: apt-get install containerd")
	}
}

func start(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	need(t)
	d, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !waitPidfd(fd, 10*time.Second) {
		t.Fatalf("process %d does not die", pid)
	}
}

func TestStartAdoptStop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "containerd")
	first := start(t, Config{DataDir: dir})
	session, err := unix.Getsid(first.Pid())
	if err != nil || session != first.Pid() {
		t.Errorf("session %d, %v; want its own, %d", session, err, first.Pid())
	}
	pid := first.Pid()
	first.Detach()
	second, err := Start(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if second.Pid() != pid || second.Socket() != first.Socket() {
		t.Errorf("second start runs PID %d on %s; want the first one's %d on %s", second.Pid(), second.Socket(), pid, first.Socket())
	}
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err == nil && second.isOurs(pid) {
		t.Error("containerd still runs after Stop")
	}
}

func TestRestartsAfterACrash(t *testing.T) {
	d := start(t, Config{DataDir: filepath.Join(t.TempDir(), "c")})
	before := d.Pid()
	kill(t, before)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for d.answers(ctx) != nil || d.Pid() == before {
		if ctx.Err() != nil {
			t.Fatal("containerd was not started again")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNoRestart(t *testing.T) {
	d := start(t, Config{DataDir: filepath.Join(t.TempDir(), "c"), NoRestart: true})
	kill(t, d.Pid())
	if err := d.answers(t.Context()); err == nil {
		t.Error("a killed containerd answers")
	}
	if err := d.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.answers(t.Context()); err != nil {
		t.Errorf("after Restart: %v", err)
	}
}

func TestLongDirectoryGetsAShortSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	d := start(t, Config{DataDir: dir})
	if len(d.Socket()) > maxSocket || strings.HasPrefix(d.Socket(), dir) {
		t.Errorf("socket %s", d.Socket())
	}
}

func TestStartErrors(t *testing.T) {
	if _, err := Start(t.Context(), Config{DataDir: "/dev/null/x"}); err == nil {
		t.Error("a data directory that cannot be made gave no error")
	}
	dir := t.TempDir()
	_, err := Start(t.Context(), Config{DataDir: dir, Binary: "/bin/false"})
	if err == nil || !strings.Contains(err.Error(), "containerd.log") {
		t.Errorf("a containerd that ends at once: %v; want an error that names the log", err)
	}
	if _, err := Start(t.Context(), Config{DataDir: dir, Binary: filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing binary gave no error")
	}
}

func TestAForeignProcessIsNotAdopted(t *testing.T) {
	dir := t.TempDir()
	d := &Daemon{cfg: Config{DataDir: dir}}
	for _, content := range []string{"1\n", "x", "", "-5\n"} {
		if err := os.WriteFile(filepath.Join(dir, "containerd.pid"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if pid, ok := d.running(); ok {
			t.Errorf("pid file %q: adopted %d", content, pid)
		}
	}
}
