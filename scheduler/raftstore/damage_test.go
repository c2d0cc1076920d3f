package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-fleet/drover/scheduler/state"
)

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// A kill leaves the files as they are at some moment after the answer.
func TestKillKeepsAcknowledgedWrites(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, _ := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	killed := cfg
	killed.DataDir = filepath.Join(t.TempDir(), "killed")
	for i := range 6 {
		propose(t, s, fmt.Sprint("f", i))
		if i == 2 {
			if err := s.Snapshot(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		copyDir(t, cfg.DataDir, killed.DataDir)
		again, st := mustOpen(t, killed, nil)
		awaitLeader(t, again)
		if n := len(st.View().Flavors()); n != i+1 {
			t.Fatalf("%d of %d writes are there after a kill", n, i+1)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever byte of whatever file changes: the store refuses and names the file, or has everything. It
// never starts with less.
func TestDamageIsRefusedOrHarmless(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.TrailingLogs = 2
	s, st := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	for i := range 60 {
		propose(t, s, fmt.Sprint("f", i))
		if i == 7 {
			if err := s.Snapshot(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(st.View().Flavors()); n != 60 {
		t.Fatalf("%d flavors", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := kept{s.logs.head.ID, s.logs.head.Stable, s.logs.log.bounds}
	damaged := t.TempDir()
	refused := map[string]int{}
	err := filepath.WalkDir(filepath.Join(cfg.DataDir, "raft"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" || d.Name() == fileSpare {
			return err
		}
		good, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(cfg.DataDir, path)
		copyDir(t, cfg.DataDir, damaged)
		places := used(good)
		for i := 0; i < len(places); i += max(1, len(places)/400) {
			bad := append([]byte(nil), good...)
			bad[places[i]] ^= 0x10
			if err := os.WriteFile(filepath.Join(damaged, rel), bad, 0o600); err != nil {
				return err
			}
			if checkDamaged(t, damaged, rel, places[i], want, 1) {
				refused[d.Name()]++
			}
		}
		for _, size := range []int{0, len(good) / 2, len(good) - 1} {
			copyDir(t, cfg.DataDir, damaged)
			if err := os.Truncate(filepath.Join(damaged, rel), int64(size)); err != nil {
				return err
			}
			checkDamaged(t, damaged, rel, -size, want, 1)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fileHead, "0000000000000001.segment", "0000000000000002.segment", fileID, "state.bin", "meta.json"} {
		if refused[name] == 0 {
			t.Errorf("no damage of %s was found", name)
		}
	}
	t.Logf("refused: %v", refused)
}

// used are the places of the bytes that are not zero: most of a segment is empty.
func used(b []byte) (places []int) {
	for i, c := range b {
		if c != 0 {
			places = append(places, i)
		}
	}
	return places
}

// kept is what must still be there.
type kept struct {
	id     string
	stable map[string]string
	bounds bounds
}

// checkDamaged opens the files without running Raft, and says whether they were refused.
func checkDamaged(t *testing.T, dir, rel string, at int, want kept, snapshotCount int) bool {
	t.Helper()
	s := newStore(testConfig(dir).withDefaults(), nil, nil)
	defer s.stall.close()
	snapshots, err := s.openFiles(filepath.Join(dir, "raft"))
	if s.logs != nil {
		defer s.logs.Close()
	}
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		// A snapshot is named by its directory.
		if !strings.Contains(filepath.Join(dir, rel), corrupt.File) && !strings.Contains(err.Error(), rel) {
			t.Errorf("%s, byte %d: the error names another file: %v", rel, at, err)
		}
		if !strings.Contains(err.Error(), "backup") {
			t.Errorf("the error says nothing of what to do: %v", err)
		}
		return true
	}
	if err != nil {
		t.Errorf("%s, byte %d: %v", rel, at, err)
		return true
	}
	if got := (kept{s.logs.head.ID, s.logs.head.Stable, s.logs.log.bounds}); !reflect.DeepEqual(got, want) {
		t.Errorf("%s, byte %d: opened with %+v, want %+v", rel, at, got, want)
	}
	if metas, err := snapshots.List(); err != nil || len(metas) != snapshotCount {
		t.Errorf("%s, byte %d: %d snapshots, %v", rel, at, len(metas), err)
	}
	return false
}

// hang makes every write to the log wait until the answer is called, as a disk that doesn't answer does.
func hang(s *Store) (release func()) {
	gate := make(chan struct{})
	s.logs.writing.Lock()
	defer s.logs.writing.Unlock()
	s.logs.sync = func(f *os.File) error {
		<-gate
		return fdatasync(f)
	}
	return sync.OnceFunc(func() { close(gate) })
}

func TestStallIsReported(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.StallLimit = time.Second // a busy disk takes some tens of milliseconds
	s, _ := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	release := hang(s)
	defer release()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	hanging := make(chan error, 1)
	go func() {
		_, err := s.Propose(ctx, flavorCommand("a"))
		hanging <- err
	}()
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), "disk") {
			t.Errorf("got %v", err)
		}
	case <-testContext(t).Done():
		t.Fatal("nobody was told")
	}
	cancel()
	if err := <-hanging; !errors.Is(err, ErrUnknown) {
		t.Errorf("the write that hangs: %v", err)
	}
	release()
}

// A process that was stopped while it wrote has no disk that hangs.
func TestStoppedProcessIsNoStall(t *testing.T) {
	w := newStallWatch(time.Hour, func(err error) { t.Error(err) })
	defer w.close()
	w.begin()
	now := time.Now()
	if d := w.longest(now.Add(2*time.Hour), time.Minute); d < 2*time.Hour {
		t.Errorf("a write that hangs for two hours is taken to take %s", d)
	}
	if d := w.longest(now.Add(3*time.Hour), 3*time.Hour); d != 0 {
		t.Errorf("a write during which the process was stopped is taken to take %s", d)
	}
	if d := w.longest(now.Add(5*time.Hour), time.Minute); d != 2*time.Hour {
		t.Errorf("two hours later it is taken to take %s", d)
	}
}

func TestDamagedEntryStopsApplying(t *testing.T) {
	s, st := mustOpen(t, testConfig(t.TempDir()), nil)
	awaitLeader(t, s)
	propose(t, s, "a")
	bad, err := encodeFrame(flavorCommand("b"))
	if err != nil {
		t.Fatal(err)
	}
	bad[len(bad)-1] ^= 1
	if err := s.raft.Apply(bad, time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.Failed():
		if !errors.Is(err, errFrame) {
			t.Errorf("got %v", err)
		}
	case <-testContext(t).Done():
		t.Fatal("nobody was told")
	}
	if _, err := s.Propose(testContext(t), flavorCommand("c")); !errors.Is(err, ErrUnknown) {
		t.Errorf("propose after a damaged entry: %v", err)
	}
	if len(st.View().Flavors()) != 1 {
		t.Error("something was applied after a damaged entry")
	}
	if err := s.Snapshot(testContext(t)); err == nil {
		t.Error("a snapshot was made of a store that has stopped")
	}
}

func TestFrames(t *testing.T) {
	good, err := encodeFrame(flavorCommand("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeFrame(good); err != nil {
		t.Fatal(err)
	}
	for at := range good {
		bad := append([]byte(nil), good...)
		bad[at] ^= 4
		if _, err := decodeFrame(bad); !errors.Is(err, errFrame) {
			t.Errorf("byte %d: %v", at, err)
		}
		if _, err := decodeFrame(good[:at]); !errors.Is(err, errFrame) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	good, err := encodeFrame(flavorCommand("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := decodeFrame(b)
		if (cmd == nil) == (err == nil) {
			t.Errorf("%v, %v", cmd, err)
		}
	})
}

func BenchmarkPropose(b *testing.B) {
	s, err := Open(testConfig(b.TempDir()), state.New(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	awaitLeader(b, s)
	ctx := context.Background()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := s.Propose(ctx, flavorCommand(fmt.Sprint("f", n))); err != nil {
			b.Fatal(err)
		}
	}
}
