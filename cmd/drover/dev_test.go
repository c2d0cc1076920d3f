package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// watched is output whose readers can wait for a line.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// TestDev starts everything, interrupts it, starts it again on the same containerd, and removes everything.
func TestDev(t *testing.T) {
	if err := checkMachine(); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	base := t.TempDir()
	dir := filepath.Join(base, "dev")
	env := func(name string) string {
		return map[string]string{"XDG_CONFIG_HOME": filepath.Join(base, "config")}[name]
	}
	command := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		a := &app{out: &out, err: &errOut, in: strings.NewReader(""), getenv: env, now: time.Now}
		code := a.execute(t.Context(), args)
		return code, out.String(), errOut.String()
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, "dev.lock")); err != nil {
			return
		}
		a := &app{out: t.Output(), err: t.Output(), getenv: env, now: time.Now}
		if code := a.execute(context.Background(), []string{"dev", "stop", "--data-dir", dir}); code != 0 {
			t.Errorf("clean up: exit code %d", code)
		}
	})
	run := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out := &watched{more: make(chan struct{}, 1)}
		a := &app{out: out, err: out, in: strings.NewReader(""), getenv: env, now: time.Now}
		code := make(chan int, 1)
		go func() { code <- a.execute(ctx, append([]string{"dev", "--data-dir", dir, "--free-ports"}, args...)) }()
		for !strings.Contains(out.String(), "\nready\n") {
			select {
			case <-out.more:
			case got := <-code:
				t.Fatalf("drover dev ended with %d:\n%s", got, out)
			}
		}
		if got, listed, errOut := command("node", "list"); got != 0 || !strings.Contains(listed, "dev-1  Ready") {
			t.Errorf("node list: %d, %q, %q", got, listed, errOut)
		}
		if got, _, errOut := command("dev", "--data-dir", dir); got != 1 || !strings.Contains(errOut, "is in use by process") {
			t.Errorf("a second one in the same directory: %d, %q", got, errOut)
		}
		cancel()
		if got := <-code; got != 0 {
			t.Errorf("exit code %d after an interrupt:\n%s", got, out)
		}
		return out.String()
	}
	pid := regexp.MustCompile(`containerd   process (\d+)`)
	firstRun := run("--nodes", "2", "--devices", "fake:2xH100-80GB")
	secondRun := run()
	if a, b := pid.FindString(firstRun), pid.FindString(secondRun); a == "" || a != b {
		t.Errorf("containerd was not adopted: %q, then %q", a, b)
	}
	if code, _, errOut := command("dev", "stop", "--data-dir", dir); code != 0 {
		t.Errorf("dev stop: %d, %q", code, errOut)
	}
	for _, gone := range []string{dir, filepath.Join(base, "config", "drover", "context.yaml")} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if code, _, errOut := command("dev", "stop", "--data-dir", dir); code != 1 || !strings.Contains(errOut, "has left anything") {
		t.Errorf("dev stop again: %d, %q", code, errOut)
	}
	if code, _, errOut := command("dev", "--nodes", "0"); code != 2 || !strings.Contains(errOut, "--nodes 0: want 1 to 1000") {
		t.Errorf("no nodes: %d, %q", code, errOut)
	}
}
