package containerd_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	e := containerdtest.New(t)
	runtimetest.Run(t, func(*testing.T) runtimetest.Harness {
		return runtimetest.Harness{
			Runtime: e.Runtime, Image: e.Image, Digest: e.Digest, Server: "/server",
			Missing: e.Registry.Host + "/test/none:1", MissingDigest: "sha256:" + strings.Repeat("0", 64),
			Interrupt: func(t *testing.T, during func()) {
				killDaemon(t, e)
				during()
				restartDaemon(t, e)
			},
		}
	})
}

func killDaemon(t *testing.T, e *containerdtest.Env) {
	t.Helper()
	fd, err := unix.PidfdOpen(e.Daemon.Pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil {
		t.Fatal(err)
	}
}

func restartDaemon(t *testing.T, e *containerdtest.Env) {
	t.Helper()
	if err := e.Daemon.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
