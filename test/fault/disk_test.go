package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// spoil has strace inject a fault into each fsync of a running process until the test ends or the process does.
func spoil(t *testing.T, pid int, fault string) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-q", "-o", os.DevNull, "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:"+fault, "-p", strconv.Itoa(pid))
	if err := cmd.Start(); err != nil {
		t.Fatalf("strace: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // when the process has ended, strace has, too
		_ = cmd.Wait()
	})
}

// The leader's disk fails. When fdatasync hangs, the watchdog ends the scheduler; when it fails, the scheduler ends and
// acknowledges nothing. Either way another leads within 15 s, and what was acknowledged is there.
func TestLeadersDiskFails(t *testing.T) {
	for name, fault := range map[string]string{"stalls": "delay_enter=10s", "fails": "error=EIO"} {
		t.Run(name, func(t *testing.T) {
			s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{})
			watchTerms(t, s)
			l := startLoad(t, s.Clients(), 9)
			l.resumes(limit)
			leader := s.Leader()
			spoil(t, leader.Pid(), fault)
			broken := time.Now()
			if code := leader.Wait(limit); code == 0 || code == -1 {
				t.Errorf("the scheduler ended with code %d, want an error", code)
			}
			if log := leader.Log(); !strings.Contains(log, "the Raft log has failed") {
				t.Errorf("the scheduler doesn't say why it ended:\n%s", log)
			}
			if l.resumes(limit); time.Since(broken) > healed {
				t.Errorf("writes were back after %s, want %s at most", time.Since(broken), healed)
			}
			t.Logf("writes were back %s after the disk failed", time.Since(broken))
			leader.Start()
			s.WaitVoters(3)
			l.finish(s.Leader().Client)
		})
	}
}

// fill takes what a file system has left, and answers how to free it.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	out, err := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=64k").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("fill %s: %v: %s", dir, err, out)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// The disk of the only scheduler is full: writes are RESOURCE_EXHAUSTED, reads work, and it goes on when there is room.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("drover-test", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("SKIPPED, AND IT MATTERS: mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := machine.StartSchedulers(t, 1, machine.SchedulersOptions{Dir: dir})
	p := s.All[0]
	write := func(n int) error {
		_, err := p.Client.Quotas.SetQuota(t.Context(), &fleetv1.SetQuotaRequest{Quota: &fleetv1.Quota{
			Meta: &fleetv1.Meta{Name: fmt.Sprintf("p%05d", n), Tags: map[string]string{"filling": strings.Repeat("x", 200)}}, Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(1)}}})
		return err
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	free := fill(t, dir)
	acknowledged := 1
	var refused error
	for ; refused == nil && acknowledged < 200_000; acknowledged++ {
		refused = write(acknowledged)
	}
	acknowledged-- // the last one was not
	if code := status.Code(refused); code != codes.ResourceExhausted || !strings.Contains(refused.Error(), "disk") {
		t.Errorf("a write on a full disk: %v, want RESOURCE_EXHAUSTED that says so", refused)
	}
	count := func() int {
		resp, err := p.Client.Quotas.ListQuotas(t.Context(), &fleetv1.ListQuotasRequest{})
		if err != nil {
			t.Errorf("read on a full disk: %v", err)
		}
		return len(resp.GetQuotas())
	}
	if n := count(); n != acknowledged {
		t.Errorf("%d writes are there, and %d were acknowledged", n, acknowledged)
	}
	free()
	s.Within(limit, "writes are accepted again", func() error { return write(acknowledged) })
	p.Kill()
	p.Start()
	if n := count(); n != acknowledged+1 {
		t.Errorf("after a restart %d writes are there, and %d were acknowledged", n, acknowledged+1)
	}
}
