package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// testInside looks at a container from inside.
func testInside(t *testing.T, e *containerdtest.Env) {
	mounted := t.TempDir()
	if err := os.WriteFile(filepath.Join(mounted, "note"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := spec(t, e)
	s.Env = map[string]string{"GIVEN": "by request", "FROM": "request"}
	s.ShmBytes, s.Nofile, s.Memlock, s.Pids = 3<<20, 1000, 65536, 77
	s.ReadOnlyRoot = true
	s.Mounts = []runtime.Mount{{Source: mounted, Target: "/data", ReadOnly: true}}
	st := started(t, e, s)
	for path, want := range map[string][]string{
		"/env?key=GIVEN":                       {"by request"},
		"/env?key=FROM":                        {"request"},
		"/file?path=/data/note":                {"from the host"},
		"/file?path=/etc/hostname":             {"app"},
		"/file?path=/etc/hosts":                {"127.0.0.1\tlocalhost", st.IP + "\tapp"},
		"/file?path=/proc/self/mounts":         {"/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=3072k", "/data ", "overlay / overlay ro,"},
		"/file?path=/proc/self/limits":         {"Max open files            1000                 1000", "Max locked memory         65536                65536"},
		"/file?path=/proc/self/status":         {"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t00000000800405fb", "CapEff:\t00000000800405fb"},
		"/file?path=/proc/1/cgroup":            {e.Config.CgroupParent + "/" + s.ID},
		"/file?path=/proc/self/net/dev":        {"eth0:", "lo:"},
		"/file?path=/proc/kcore":               {""},
		"/file?path=/proc/sys/kernel/hostname": {"app"},
	} {
		got, err := get(st.IP, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("%s answers %q; want %q in it", path, got, part)
			}
		}
	}
	stats, err := e.Runtime.Stats(within(t), s.ID)
	if err != nil || stats.NetReceiveBytes == nil || *stats.NetReceiveBytes == 0 || stats.Pids == nil || *stats.Pids == 0 {
		t.Errorf("stats %+v, %v; want network and pids", stats, err)
	}
	testTerminal(t, e, s.ID)
}

func testTerminal(t *testing.T, e *containerdtest.Env, id string) {
	in, typed := io.Pipe()
	defer typed.Close()
	sizes := make(chan runtime.WindowSize)
	var out safeBuffer
	done := make(chan error, 1)
	go func() {
		code, err := e.Runtime.Exec(within(t), id, runtime.ExecRequest{Command: []string{"/app", "tty"}, TTY: true, Stdin: in, Stdout: &out, Resize: sizes})
		if err == nil && code != 0 {
			err = errors.New("it failed")
		}
		done <- err
	}()
	sizes <- runtime.WindowSize{Rows: 41, Columns: 142}
	sizes <- runtime.WindowSize{Rows: 42, Columns: 142} // taken: the first one was passed on
	if _, err := io.WriteString(typed, "hello\nquit\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"terminal: true", "read: hello", " 142"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the terminal shows %q; want %q in it", out.String(), want)
		}
	}
	// Without a terminal, standard input that ends ends the command.
	var plain safeBuffer
	code, err := e.Runtime.Exec(within(t), id, runtime.ExecRequest{Command: []string{"/app", "tty"}, Stdin: strings.NewReader("one\ntwo\n"), Stdout: &plain})
	if err != nil || code != 0 || plain.String() != "terminal: false\nread: one\nread: two\n" {
		t.Errorf("exec with input: %d, %v, %q", code, err, plain.String())
	}
	if code, err := e.Runtime.Exec(within(t), id, runtime.ExecRequest{Command: []string{"/none"}}); err == nil {
		t.Errorf("exec of a missing program answered %d and no error", code)
	}
	ctx, cancel := context.WithCancel(within(t))
	never, _ := io.Pipe()
	go cancel()
	if _, err := e.Runtime.Exec(ctx, id, runtime.ExecRequest{Command: []string{"/app", "tty"}, Stdin: never}); err == nil {
		t.Error("a cancelled exec answered no error")
	}
	never.Close()
}

// safeBuffer is written by exec's goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
