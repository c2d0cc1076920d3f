package containerd_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/runtime/logfile"
)

func TestFaults(t *testing.T) {
	e := containerdtest.New(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *containerdtest.Env)
	}{
		{"OOMIsNamed", testOOM},
		{"KilledShimLeaksNothing", testKilledShim},
		{"KilledContainerdKeepsPIDs", testKilledContainerd},
		{"NewRuntimeAdopts", testNewRuntimeAdopts},
		{"LoggerIgnoresSignals", testLoggerSignals},
		{"LoggerSurvivesAFullDisk", testLoggerFullDisk},
		{"KilledLoggerIsReported", testKilledLogger},
		{"LoggerKilledWhileAway", testLoggerKilledWhileAway},
		{"InterruptedCreateIsFinished", testInterruptedCreate},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, e) })
	}
}

func testOOM(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	events := watch(t, e.Runtime)
	st := started(t, e, s)
	if _, err := get(st.IP, fmt.Sprintf("/alloc?bytes=%d", 256<<20)); err == nil {
		t.Fatal("a container got more memory than its limit")
	}
	ev := await(t, events, runtime.EventExited, s.ID)
	if ev.Exit.Reason != runtime.ExitOOM || ev.Exit.Code != 137 {
		t.Errorf("exit %+v; want OOMKilled with 137", ev.Exit)
	}
	if st, err := e.Runtime.Status(within(t), s.ID); err != nil || st.Exit == nil || st.Exit.Reason != runtime.ExitOOM {
		t.Errorf("status %+v, %v; want OOMKilled", st, err)
	}
}

func testKilledShim(t *testing.T, e *containerdtest.Env) {
	for _, st := range mustList(t, e) { // interfaces are counted
		if err := e.Runtime.Delete(within(t), st.ID); err != nil {
			t.Fatal(err)
		}
	}
	s := spec(t, e)
	events := watch(t, e.Runtime)
	st := started(t, e, s)
	if err := e.Runtime.Publish(within(t), s.ID, freePort(t)); err != nil {
		t.Fatal(err)
	}
	for what, there := range containerdtest.Traces(t, e, s.ID, st.IP) {
		if !there {
			t.Errorf("a running container has no %s: the test looks in the wrong place", what)
		}
	}
	logger := loggerPid(t, s.LogDir)
	kill(t, parent(t, st.Pid), syscall.SIGKILL)
	ev := await(t, events, runtime.EventExited, s.ID)
	if ev.Exit.Reason != runtime.ExitShimKilled {
		t.Errorf("exit %+v; want ShimKilled", ev.Exit)
	}
	got, err := e.Runtime.Status(within(t), s.ID)
	if err != nil || got.State != runtime.StateBroken || got.Exit == nil || got.Exit.Reason != runtime.ExitShimKilled {
		t.Errorf("status %+v, %v; want broken, ShimKilled", got, err)
	}
	if again, err := e.Runtime.Create(within(t), s); err != nil || again.State != runtime.StateBroken {
		t.Errorf("create of a broken container: %+v, %v; want it answered as broken", again, err)
	}
	if err := e.Runtime.Delete(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	for what, there := range containerdtest.Traces(t, e, s.ID, st.IP) {
		if there {
			t.Errorf("a killed shim's container left its %s", what)
		}
	}
	for name, pid := range map[string]int{"process": st.Pid, "logger": logger} {
		eventually(t, name+" ends", func() error {
			if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(raw) > 0 {
				return fmt.Errorf("PID %d runs: %q", pid, raw)
			}
			return nil
		})
	}
}

func mustList(t *testing.T, e *containerdtest.Env) []runtime.Status {
	t.Helper()
	list, err := e.Runtime.List(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func testKilledContainerd(t *testing.T, e *containerdtest.Env) {
	lives, dies := spec(t, e), spec(t, e)
	a, b := started(t, e, lives), started(t, e, dies)
	port := freePort(t)
	if err := e.Runtime.Publish(within(t), lives.ID, port); err != nil {
		t.Fatal(err)
	}
	events := watch(t, e.Runtime)
	killDaemon(t, e)
	if _, err := get(b.IP, "/exit?code=9"); err == nil {
		t.Fatal("the app answered instead of ending")
	}
	if _, err := e.Runtime.Stats(within(t), lives.ID); err != nil {
		t.Errorf("stats while containerd is away: %v", err)
	}
	restartDaemon(t, e)
	await(t, events, runtime.EventResync, "")
	found := map[string]runtime.Status{}
	for _, st := range mustList(t, e) {
		found[st.ID] = st
	}
	if st := found[lives.ID]; st.State != runtime.StateRunning || st.Pid != a.Pid || st.HostPort != port || !st.Started.Equal(a.Started) {
		t.Errorf("after the restart %+v; want it running as %+v", st, a)
	}
	if st := found[dies.ID]; st.State != runtime.StateExited || st.Exit.Code != 9 {
		t.Errorf("what died meanwhile is %+v; want exited with 9", st)
	}
	if answer, err := getAt(fmt.Sprintf("127.0.0.1:%d", port), "/"); err != nil || answer != "ok" {
		t.Errorf("published port: %q, %v", answer, err)
	}
}

func testNewRuntimeAdopts(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	st := started(t, e, s)
	port := freePort(t)
	if err := e.Runtime.Publish(within(t), s.ID, port); err != nil {
		t.Fatal(err)
	}
	again, err := containerd.New(t.Context(), e.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	adopted, err := again.Create(within(t), s)
	if err != nil || adopted.Pid != st.Pid || adopted.IP != st.IP || adopted.HostPort != port || adopted.State != runtime.StateRunning {
		t.Errorf("adopted %+v, %v; want %+v with port %d", adopted, err, st, port)
	}
	if _, err := get(st.IP, "/exit?code=3"); err == nil {
		t.Fatal("the app answered instead of ending")
	}
	eventually(t, "the exit is known", func() error {
		got, err := again.Status(within(t), s.ID)
		if err == nil && (got.Exit == nil || got.Exit.Code != 3) {
			err = fmt.Errorf("status %+v", got)
		}
		return err
	})
	if err := again.Delete(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := getAt(fmt.Sprintf("127.0.0.1:%d", port), "/"); err == nil {
		t.Error("a deleted container's port answers")
	}
	if err := e.Runtime.Delete(within(t), s.ID); err != nil { // the other one remembers it
		t.Fatal(err)
	}
}

func readLog(t *testing.T, dir string) []logfile.Line {
	t.Helper()
	var lines []logfile.Line
	if err := logfile.Read(within(t), filepath.Dir(dir), logfile.Query{}, func(batch []logfile.Line) error {
		lines = append(lines, batch...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

func awaitLine(t *testing.T, dir, text string) {
	t.Helper()
	eventually(t, "log line "+text, func() error {
		for _, line := range readLog(t, dir) {
			if line.Text == text {
				return nil
			}
		}
		return errors.New("not there")
	})
}

func testLoggerSignals(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	st := started(t, e, s)
	pid := loggerPid(t, s.LogDir)
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("the logger's session is %d, %v; want its own, %d", session, err, pid)
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if sig != syscall.SIGKILL && sig != syscall.SIGSTOP {
			kill(t, pid, sig)
		}
	}
	if _, err := get(st.IP, "/print?lines=3"); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, s.LogDir, "line 3")
	if now := loggerPid(t, s.LogDir); now != pid {
		t.Errorf("logger %d became %d", pid, now)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			t.Logf("logger: %s", strings.TrimSpace(line))
		}
	}
}

func testLoggerFullDisk(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.LogDir = filepath.Join(small, "1")
	st := started(t, e, s)
	pid := loggerPid(t, s.LogDir)
	if _, err := get(st.IP, fmt.Sprintf("/flood?bytes=%d", 8<<20)); err != nil {
		t.Fatalf("the container noticed: %v", err)
	}
	eventually(t, "dropped lines are counted", func() error {
		stats, err := e.Runtime.Stats(within(t), s.ID)
		if err == nil && (stats.LogDroppedLines == nil || *stats.LogDroppedLines == 0) {
			err = errors.New("none is counted")
		}
		return err
	})
	if answer, err := get(st.IP, "/"); err != nil || answer != "ok" {
		t.Errorf("the app answers %q, %v", answer, err)
	}
	// With room again the logger goes on.
	if err := unix.Mount("tmpfs", small, "", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "lines are written again", func() error {
		if _, err := get(st.IP, "/print?lines=2"); err != nil {
			return err
		}
		lines := readLog(t, s.LogDir)
		for _, line := range lines {
			if line.Stream == logfile.Corrupt {
				return fmt.Errorf("a line is torn: %q", line.Text)
			}
		}
		if len(lines) == 0 || lines[len(lines)-1].Text != "line 2" {
			return errors.New("not yet")
		}
		return nil
	})
	if now := loggerPid(t, s.LogDir); now != pid {
		t.Errorf("logger %d became %d", pid, now)
	}
	if err := e.Runtime.Delete(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
}

func testKilledLogger(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	events := watch(t, e.Runtime)
	st := started(t, e, s)
	kill(t, loggerPid(t, s.LogDir), syscall.SIGKILL)
	await(t, events, runtime.EventLoggerDied, s.ID)
	if got, err := e.Runtime.Status(within(t), s.ID); err != nil || got.State != runtime.StateRunning || got.Pid != st.Pid {
		t.Errorf("status %+v, %v; want it running", got, err)
	}
	if err := e.Runtime.Signal(within(t), s.ID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, events, runtime.EventExited, s.ID); ev.Exit.Reason != runtime.ExitLoggerKilled {
		t.Errorf("exit %+v; want LoggerKilled", ev.Exit)
	}
	if err := e.Runtime.Delete(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
}

func testLoggerKilledWhileAway(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	started(t, e, s)
	kill(t, loggerPid(t, s.LogDir), syscall.SIGKILL)
	again, err := containerd.New(t.Context(), e.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	await(t, watch(t, again), runtime.EventLoggerDied, s.ID)
}

// testInterruptedCreate loses what a Create that was cut short had not yet written.
func testInterruptedCreate(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	first := started(t, e, s)
	record := filepath.Join(e.Config.DataDir, "containers", s.ID, "record.json")
	again := func() runtime.Status {
		t.Helper()
		if err := os.Remove(record); err != nil {
			t.Fatal(err)
		}
		rt, err := containerd.New(t.Context(), e.Config)
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		st, err := rt.Create(within(t), s)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := again()
	if st.State != runtime.StateRunning || st.Pid != first.Pid || st.IP != first.IP || st.Started.Sub(first.Started).Abs() > time.Minute {
		t.Errorf("create after a lost record: %+v; want %+v adopted", st, first)
	}
	cached, err := filepath.Glob(filepath.Join(e.Config.DataDir, "cni", "results", "*"+s.ID+"*"))
	if err != nil || len(cached) != 1 {
		t.Fatalf("network results %v, %v; want one", cached, err)
	}
	if err := os.Remove(cached[0]); err != nil {
		t.Fatal(err)
	}
	if st := again(); st.State != runtime.StateCreated || st.IP == "" {
		t.Errorf("create without a whole network: %+v; want it made anew", st)
	}
	n := 0
	for _, st := range mustList(t, e) {
		if st.ID == s.ID {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d containers; want one", n)
	}
	if err := e.Runtime.Delete(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
}
