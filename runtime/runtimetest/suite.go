package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/runtime"
)

// Run runs the suite against the runtime that setup answers; setup is called once.
func Run(t *testing.T, setup func(t *testing.T) Harness) {
	h := setup(t)
	t.Cleanup(func() {
		if err := h.Runtime.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, c := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Info", testInfo},
		{"PullTwice", testPullTwice},
		{"PullMissing", testPullMissing},
		{"PullCancelled", testPullCancelled},
		{"CreateTwice", testCreateTwice},
		{"StartTwice", testStartTwice},
		{"StartUnknown", testStartUnknown},
		{"ExitCode", testExitCode},
		{"SignalTerm", testSignalTerm},
		{"SignalIgnored", testSignalIgnored},
		{"SignalUnknown", testSignalUnknown},
		{"DeleteRunning", testDeleteRunning},
		{"DeleteTwice", testDeleteTwice},
		{"StatusUnknown", testStatusUnknown},
		{"List", testList},
		{"Publish", testPublish},
		{"Stats", testStats},
		{"Exec", testExec},
		{"ExecCancelled", testExecCancelled},
		{"Logs", testLogs},
		{"WatchEnds", testWatchEnds},
		{"Interruption", testInterruption},
		{"RepairNetwork", testRepairNetwork},
		{"CollectImagesKeepsUsed", testCollectKeeps},
		{"Images", testImages},
		{"Concurrent", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, h) })
	}
}

func testInfo(t *testing.T, h Harness) {
	info, err := h.Runtime.Info(h.ctx(t))
	if err != nil || info.Name == "" || info.Version == "" {
		t.Fatalf("info: %+v, %v", info, err)
	}
}

func testPullTwice(t *testing.T, h Harness) {
	for range 2 {
		var last runtime.Progress
		img, err := h.Runtime.Pull(h.ctx(t), runtime.PullRequest{Image: h.Image, Digest: h.Digest}, func(p runtime.Progress) {
			if p.DoneBytes < last.DoneBytes {
				t.Errorf("progress went back from %d to %d bytes", last.DoneBytes, p.DoneBytes)
			}
			last = p
		})
		if err != nil {
			t.Fatalf("pull: %v", err)
		}
		if img.Digest != h.Digest || img.Bytes <= 0 {
			t.Fatalf("pull answered %+v, want digest %s and a size", img, h.Digest)
		}
	}
}

func testPullMissing(t *testing.T, h Harness) {
	_, err := h.Runtime.Pull(h.ctx(t), runtime.PullRequest{Image: h.Missing, Digest: h.MissingDigest}, nil)
	if !errors.Is(err, runtime.ErrFatal) {
		t.Fatalf("pull of a missing image: %v, want ErrFatal", err)
	}
	if !strings.Contains(err.Error(), h.Missing) {
		t.Errorf("the error %q does not name the image", err)
	}
}

func testPullCancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(h.ctx(t))
	cancel()
	if _, err := h.Runtime.Pull(ctx, runtime.PullRequest{Image: h.Missing, Digest: h.MissingDigest}, nil); err == nil || errors.Is(err, runtime.ErrFatal) {
		t.Fatalf("cancelled pull: %v, want an error that is not fatal", err)
	}
}

func testCreateTwice(t *testing.T, h Harness) {
	s := h.create(t)
	first, err := h.Runtime.Status(h.ctx(t), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.Runtime.Create(h.ctx(t), s)
	if err != nil {
		t.Fatalf("create again: %v", err)
	}
	if second.IP != first.IP || second.Pid != first.Pid || second.State != runtime.StateCreated {
		t.Errorf("create again answered %+v, want the adopted %+v", second, first)
	}
	if n := listed(t, h, s.Labels[runtime.LabelInstance]); n != 1 {
		t.Errorf("%d containers of the instance, want 1", n)
	}
}

func testStartTwice(t *testing.T, h Harness) {
	s, first := h.serving(t)
	second, err := h.Runtime.Start(h.ctx(t), s.ID)
	if err != nil || second.Pid != first.Pid || second.State != runtime.StateRunning {
		t.Fatalf("start again: %+v, %v; want PID %d running", second, err, first.Pid)
	}
	adopted, err := h.Runtime.Create(h.ctx(t), s)
	if err != nil || adopted.Pid != first.Pid || adopted.State != runtime.StateRunning {
		t.Fatalf("create of a running container: %+v, %v; want it adopted", adopted, err)
	}
}

func testStartUnknown(t *testing.T, h Harness) {
	if st, err := h.Runtime.Start(h.ctx(t), h.spec(t).ID); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("start of nothing: %+v, %v; want ErrNotFound", st, err)
	}
}

func testExitCode(t *testing.T, h Harness) {
	events := h.watch(t)
	s, _ := h.start(t, "-exit=42")
	if exit := h.exited(t, events, s.ID); exit.Code != 42 || exit.Reason != runtime.ExitNormal || exit.Time.IsZero() {
		t.Fatalf("exit %+v, want code 42, Exited, with its time", exit)
	}
	st, err := h.Runtime.Status(h.ctx(t), s.ID)
	if err != nil || st.State != runtime.StateExited || st.Exit == nil || st.Exit.Code != 42 {
		t.Fatalf("status after exit: %+v, %v", st, err)
	}
	again, err := h.Runtime.Start(h.ctx(t), s.ID)
	if err == nil && again.State != runtime.StateExited {
		t.Errorf("an exited container was started again: %+v", again)
	}
}

func testSignalTerm(t *testing.T, h Harness) {
	events := h.watch(t)
	s, _ := h.serving(t)
	if err := h.Runtime.Signal(h.ctx(t), s.ID, syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	if exit := h.exited(t, events, s.ID); exit.Code != 0 {
		t.Fatalf("exit %+v after SIGTERM, want code 0", exit)
	}
	if err := h.Runtime.Signal(h.ctx(t), s.ID, syscall.SIGTERM); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("signal to an exited process: %v, want ErrNotFound", err)
	}
}

func testSignalIgnored(t *testing.T, h Harness) {
	events := h.watch(t)
	s, _ := h.serving(t, "-ignore-term")
	if err := h.Runtime.Signal(h.ctx(t), s.ID, syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	if st, err := h.Runtime.Status(h.ctx(t), s.ID); err != nil || st.State != runtime.StateRunning {
		t.Fatalf("status after an ignored SIGTERM: %+v, %v", st, err)
	}
	if err := h.Runtime.Signal(h.ctx(t), s.ID, syscall.SIGKILL); err != nil {
		t.Fatalf("SIGKILL: %v", err)
	}
	if exit := h.exited(t, events, s.ID); exit.Code != 137 || exit.Reason != runtime.ExitNormal {
		t.Fatalf("exit %+v after SIGKILL, want code 137, Exited", exit)
	}
}

func testSignalUnknown(t *testing.T, h Harness) {
	if err := h.Runtime.Signal(h.ctx(t), h.spec(t).ID, syscall.SIGTERM); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("signal to nothing: %v, want ErrNotFound", err)
	}
}

func testDeleteRunning(t *testing.T, h Harness) {
	s, st := h.serving(t, "-ignore-term")
	if err := h.Runtime.Delete(h.ctx(t), s.ID); err != nil {
		t.Fatalf("delete: %v", err)
	}
	h.gone(t, s.ID)
	if _, lacking := h.Lacks[Reach]; !lacking && !answers(h.ctx(t), st.IP, s.Port, false) {
		t.Error("a deleted container still answers")
	}
}

func testDeleteTwice(t *testing.T, h Harness) {
	s := h.create(t)
	for range 3 {
		if err := h.Runtime.Delete(h.ctx(t), s.ID); err != nil {
			t.Fatalf("delete: %v", err)
		}
		h.gone(t, s.ID)
	}
}

func testStatusUnknown(t *testing.T, h Harness) { h.gone(t, h.spec(t).ID) }

func listed(t *testing.T, h Harness, instance string) int {
	t.Helper()
	all, err := h.Runtime.List(h.ctx(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	n := 0
	for _, st := range all {
		if st.Labels[runtime.LabelInstance] == instance {
			n++
		}
	}
	return n
}

func testList(t *testing.T, h Harness) {
	s, st := h.serving(t)
	all, err := h.Runtime.List(h.ctx(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, got := range all {
		if got.ID == s.ID {
			if got.State != runtime.StateRunning || got.Pid != st.Pid || got.IP != st.IP || !maps.Equal(got.Labels, s.Labels) {
				t.Errorf("listed %+v, want %+v with labels %v", got, st, s.Labels)
			}
			return
		}
	}
	t.Fatalf("%s is not listed", s.ID)
}

func testPublish(t *testing.T, h Harness) {
	h.need(t, Reach)
	address := h.Address
	if address == "" {
		address = "127.0.0.1"
	}
	s, _ := h.serving(t)
	port := freePort(t)
	for range 2 {
		if err := h.Runtime.Publish(h.ctx(t), s.ID, port); err != nil {
			t.Fatalf("publish: %v", err)
		}
		if !answers(h.ctx(t), address, port, true) {
			t.Fatalf("published port %d does not answer", port)
		}
	}
	if st, err := h.Runtime.Status(h.ctx(t), s.ID); err != nil || st.HostPort != port {
		t.Errorf("status %+v, %v; want host port %d", st, err, port)
	}
	for range 2 {
		if err := h.Runtime.Withdraw(h.ctx(t), s.ID); err != nil {
			t.Fatalf("withdraw: %v", err)
		}
		if !answers(h.ctx(t), address, port, false) {
			t.Fatalf("withdrawn port %d still answers", port)
		}
	}
	if st, err := h.Runtime.Status(h.ctx(t), s.ID); err != nil || st.HostPort != 0 || st.State != runtime.StateRunning {
		t.Errorf("status %+v, %v; want it running without a host port", st, err)
	}
	if err := h.Runtime.Withdraw(h.ctx(t), h.spec(t).ID); err != nil {
		t.Errorf("withdraw of nothing: %v", err)
	}
}

func testStats(t *testing.T, h Harness) {
	s, _ := h.serving(t)
	first, err := h.Runtime.Stats(h.ctx(t), s.ID)
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	second, err := h.Runtime.Stats(h.ctx(t), s.ID)
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	if first.Time.IsZero() || second.Time.Before(first.Time) {
		t.Errorf("times %v and %v", first.Time, second.Time)
	}
	for name, pair := range map[string][2]*uint64{
		"cpu": {first.CPUNanos, second.CPUNanos}, "read": {first.DiskReadBytes, second.DiskReadBytes},
		"write": {first.DiskWriteBytes, second.DiskWriteBytes}, "receive": {first.NetReceiveBytes, second.NetReceiveBytes},
		"transmit": {first.NetTransmitBytes, second.NetTransmitBytes},
	} {
		if pair[0] != nil && pair[1] != nil && *pair[1] < *pair[0] {
			t.Errorf("counter %s went back from %d to %d", name, *pair[0], *pair[1])
		}
	}
	if _, err := h.Runtime.Stats(h.ctx(t), h.spec(t).ID); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("stats of nothing: %v, want ErrNotFound", err)
	}
	h.need(t, Usage)
	if first.CPUNanos == nil || *first.CPUNanos == 0 || first.MemoryBytes == nil || *first.MemoryBytes == 0 {
		t.Errorf("stats %+v, want CPU time and memory above zero", first)
	}
	if first.MemoryLimit == nil || *first.MemoryLimit != uint64(s.MemoryBytes) {
		t.Errorf("memory limit %v, want %d", first.MemoryLimit, s.MemoryBytes)
	}
}

func testExec(t *testing.T, h Harness) {
	s, _ := h.serving(t)
	var out bytes.Buffer
	code, err := h.Runtime.Exec(h.ctx(t), s.ID, runtime.ExecRequest{
		Command: []string{h.Server, "-print=2", "-exit=7"}, Stdout: &out,
	})
	if err != nil || code != 7 {
		t.Fatalf("exec: code %d, %v; want 7", code, err)
	}
	if out.String() != "line 1\nline 2\n" {
		t.Errorf("exec printed %q", out.String())
	}
	if _, err := h.Runtime.Exec(h.ctx(t), h.spec(t).ID, runtime.ExecRequest{Command: []string{h.Server, "-exit=0"}}); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("exec in nothing: %v, want ErrNotFound", err)
	}
}

func testExecCancelled(t *testing.T, h Harness) {
	s, _ := h.serving(t)
	ctx, cancel := context.WithCancel(h.ctx(t))
	done := make(chan error, 1)
	go func() {
		_, err := h.Runtime.Exec(ctx, s.ID, runtime.ExecRequest{Command: []string{h.Server, "-exit=0", "-exit-after=1h"}})
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a cancelled exec answered no error")
		}
	case <-time.After(patience):
		t.Fatal("a cancelled exec does not end")
	}
	if st, err := h.Runtime.Status(h.ctx(t), s.ID); err != nil || st.State != runtime.StateRunning {
		t.Errorf("container after a cancelled exec: %+v, %v", st, err)
	}
}

func testLogs(t *testing.T, h Harness) {
	h.need(t, Logs)
	events := h.watch(t)
	s, _ := h.start(t, "-print=3", "-exit=0")
	h.exited(t, events, s.ID)
	// The logger writes after the exit what was still in the pipe.
	deadline := time.Now().Add(patience)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		text := readAll(t, s.LogDir)
		if strings.Contains(text, "line 1") && strings.Contains(text, "line 3") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the files in LogDir hold %q, want lines 1 to 3", text)
		}
		time.Sleep(wait)
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		text.Write(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return text.String()
}
