package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// smallDisk is a directory on a disk of its own.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all that is left of a disk until the answer is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		switch _, err := f.Write(make([]byte, size)); {
		case noSpace(err):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually proposes until it succeeds.
func eventually(t *testing.T, s *Store, cmd *fleetv1.Command) {
	t.Helper()
	ctx := testContext(t)
	for {
		r, err := s.Propose(ctx, cmd)
		if err == nil && len(r.Rejections) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it doesn't go on: %v, %v", err, r.Rejections)
		case err := <-s.Failed():
			t.Fatalf("it has failed: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// On a full disk writes are refused, the leader leads and reads, and all goes on when there is room.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 2<<20)
	cfg := testConfig(dir)
	cfg.SegmentSize = 64 << 10
	s, st := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	free := fill(t, dir)
	acknowledged := 0
	var err error
	for err == nil && acknowledged < 10_000 {
		if _, err = s.Propose(testContext(t), flavorCommand(fmt.Sprint("f", acknowledged))); err == nil {
			acknowledged++
		}
	}
	if !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrUnknown) || acknowledged == 0 {
		t.Fatalf("after %d writes: %v", acknowledged, err)
	}
	if !s.IsLeader() {
		t.Error("it leads no longer")
	}
	if err := s.ReadIndex(testContext(t)); err != nil {
		t.Errorf("read: %v", err)
	}
	if err := s.barrier(); err != nil { // an entry of Raft's own
		t.Errorf("barrier: %v", err)
	}
	if err := s.logs.SetUint64([]byte("test"), 1); err != nil {
		t.Errorf("vote: %v", err)
	}
	if err := s.Snapshot(testContext(t)); err == nil {
		t.Error("a snapshot was made")
	}
	if n := len(st.View().Flavors()); n != acknowledged {
		t.Errorf("%d writes are there, %d were acknowledged", n, acknowledged)
	}
	free()
	eventually(t, s, flavorCommand("after"))
	if err := s.Snapshot(testContext(t)); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, st := mustOpen(t, cfg, nil)
	awaitLeader(t, again)
	if n := len(st.View().Flavors()); n != acknowledged+1 {
		t.Errorf("%d writes are there after a restart, %d were acknowledged", n, acknowledged+1)
	}
}

// A write for which a leader finds no room in its log was not done; it steps down and leads again.
func TestWriteWithoutRoomIsNotDone(t *testing.T) {
	dir := smallDisk(t, 2<<20)
	cfg := testConfig(dir)
	cfg.SegmentSize = 64 << 10
	s, st := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	propose(t, s, "a")
	free := fill(t, dir)
	big := flavorCommand("big")
	big.GetWrite().Mutations[0].GetPut().GetFlavor().Meta.CreatedBy = strings.Repeat("x", 1<<20)
	if _, err := s.Propose(testContext(t), big); !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrUnknown) {
		t.Errorf("a big write: %v", err)
	}
	free()
	eventually(t, s, flavorCommand("b"))
	if n := len(st.View().Flavors()); n != 2 {
		t.Errorf("%d writes are there, want 2", n)
	}
}

// A disk that fails ends the scheduler, and nothing is acknowledged on it.
func TestFailedDisk(t *testing.T) {
	s, st := mustOpen(t, testConfig(t.TempDir()), nil)
	awaitLeader(t, s)
	propose(t, s, "a")
	s.logs.writing.Lock()
	s.logs.sync = func(*os.File) error { return syscall.EIO }
	s.logs.writing.Unlock()
	if _, err := s.Propose(testContext(t), flavorCommand("b")); !errors.Is(err, ErrUnknown) || !errors.Is(err, syscall.EIO) {
		t.Errorf("propose: %v", err)
	}
	select {
	case err := <-s.Failed():
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("failed: %v", err)
		}
	case <-testContext(t).Done():
		t.Fatal("nobody was told")
	}
	s.logs.writing.Lock()
	s.logs.sync = fdatasync
	s.logs.writing.Unlock()
	if _, err := s.Propose(testContext(t), flavorCommand("c")); err == nil { // Raft may have stepped down, or have stopped
		t.Error("a write after the disk has failed once is acknowledged")
	}
	// An election would end in a panic. Its state doesn't say that Raft has stopped: a leader that steps down meanwhile is a follower.
	for ctx := testContext(t); !errors.Is(s.raft.Barrier(time.Second).Error(), raft.ErrRaftShutdown); {
		select {
		case <-ctx.Done():
			t.Fatal("Raft goes on")
		case <-time.After(time.Millisecond):
		}
	}
	if n := len(st.View().Flavors()); n != 1 {
		t.Errorf("%d writes are there", n)
	}
}
