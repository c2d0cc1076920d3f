package storagetest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/storage"
)

// Server is an object store on loopback.
type Server struct {
	Store storage.Store // how to reach it
	Dir   string        // each folder in it is a bucket
}

// Start runs an object store until the test ends, with the buckets that are named.
func Start(t testing.TB, buckets ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{Dir: filepath.Join(dir, "objects")}
	for _, b := range append(buckets, "") {
		if err := os.MkdirAll(filepath.Join(s.Dir, b), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sidecar := filepath.Join(dir, "attributes")
	if err := os.Mkdir(sidecar, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Store = storage.Store{Endpoint: freeAddress(t), PathStyle: true, AccessKey: "test-access", SecretKey: "test-secret", Insecure: true}
	run(t, s.Store.Endpoint, binary(t),
		"--port", s.Store.Endpoint, "--access", s.Store.AccessKey, "--secret", s.Store.SecretKey, "--keep-alive", "--quiet",
		"posix", "--sidecar", sidecar, s.Dir)
	return s
}

// binary builds the server, or finds it in the build cache.
func binary(t testing.TB) string {
	t.Helper()
	mod := output(t, "", "env", "GOMOD")
	return output(t, filepath.Join(filepath.Dir(mod), "storage", "storagetest", "server"), "tool", "-n", "versitygw")
}

func output(t testing.TB, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run starts a process that serves at an address, waits for it, and ends it with the test.
func run(t testing.TB, address, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // what it says is in the log
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(name), log.String())
		}
	})
	deadline := time.After(time.Minute)
	for {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s ended before it served: %s", filepath.Base(name), log.String())
		case <-deadline:
			t.Fatalf("%s doesn't serve", filepath.Base(name))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
