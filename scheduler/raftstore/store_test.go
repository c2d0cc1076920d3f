package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// sinkRecorder keeps what an EventSink is told.
type sinkRecorder struct {
	mu       sync.Mutex
	events   map[uint64]int
	flushed  uint64
	flushErr error
}

func (s *sinkRecorder) Append(index uint64, events []*fleetv1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.events == nil {
		s.events = map[uint64]int{}
	}
	s.events[index] = len(events)
}

func (s *sinkRecorder) Flush(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed = index
	return s.flushErr
}

func testConfig(dir string) Config {
	return Config{
		DataDir: dir, Addr: "127.0.0.1:0", Bootstrap: true, Logger: slog.New(slog.DiscardHandler), SegmentSize: 4096,
		HeartbeatTimeout: 100 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond, LeaderLease: 80 * time.Millisecond,
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustOpen(t testing.TB, cfg Config, sink EventSink) (*Store, *state.Store) {
	t.Helper()
	st := state.New()
	s, err := Open(cfg, st, sink)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, st
}

func awaitLeader(t testing.TB, s *Store) {
	t.Helper()
	ctx := testContext(t)
	for {
		select {
		case leads := <-s.LeaderChanges():
			if leads {
				return
			}
		case <-ctx.Done():
			t.Fatal("no leader")
		}
	}
}

func flavorCommand(name string) *fleetv1.Command {
	return &fleetv1.Command{
		Time: timestamppb.New(time.Unix(1_700_000_000, 0)), Introduced: 1,
		Op: &fleetv1.Command_Write{Write: &fleetv1.Write{
			Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}})},
			Events:    []*fleetv1.Event{{Type: fleetv1.EventNormal, Reason: "FlavorCreated"}},
		}},
	}
}

func propose(t testing.TB, s *Store, name string) {
	t.Helper()
	r, err := s.Propose(testContext(t), flavorCommand(name))
	if err != nil || len(r.Rejections) > 0 {
		t.Fatalf("propose %s: %v %v", name, r.Rejections, err)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	cfg, sink := testConfig(t.TempDir()), &sinkRecorder{}
	s, _ := mustOpen(t, cfg, sink)
	awaitLeader(t, s)
	id := s.ID()
	for i := range 5 {
		propose(t, s, fmt.Sprint("before-", i))
	}
	if err := s.Snapshot(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if sink.flushed == 0 {
		t.Error("the snapshot was written before the events were")
	}
	propose(t, s, "after")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sink2 := &sinkRecorder{}
	s, st := mustOpen(t, cfg, sink2)
	awaitLeader(t, s)
	if err := s.ReadIndex(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if n := len(st.View().Flavors()); n != 6 {
		t.Errorf("%d flavors after the restart, want 6", n)
	}
	if s.ID() != id {
		t.Errorf("ID changed from %s to %s", id, s.ID())
	}
	if len(sink2.events) != 1 {
		t.Errorf("events of %d indexes were replayed, want that after the snapshot", len(sink2.events))
	}
	status := s.Status()
	if len(status.Members) != 1 || !status.Members[0].Voter || !status.Members[0].Leader || status.LastSnapshotIndex == 0 {
		t.Errorf("status: %+v", status)
	}
}

func TestSnapshotNeedsDurableEvents(t *testing.T) {
	sink := &sinkRecorder{flushErr: errors.New("disk full")}
	s, _ := mustOpen(t, testConfig(t.TempDir()), sink)
	awaitLeader(t, s)
	propose(t, s, "a")
	if err := s.Snapshot(testContext(t)); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("snapshot: %v", err)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	cfg := testConfig(t.TempDir())
	mustOpen(t, cfg, nil)
	_, err := Open(cfg, state.New(), nil)
	want := fmt.Sprintf("data directory %s is in use by process %d", cfg.DataDir, os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestMissingFilesAreNotStartingEmpty(t *testing.T) {
	for _, file := range []string{dirLog, dirSnapshots, fileID} {
		t.Run(file, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.TrailingLogs = 1
			s, _ := mustOpen(t, cfg, nil)
			awaitLeader(t, s)
			for i := range 4 {
				propose(t, s, fmt.Sprint(i))
			}
			if err := s.Snapshot(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(cfg.DataDir, "raft", file)); err != nil {
				t.Fatal(err)
			}
			again, err := Open(cfg, state.New(), nil)
			if file == fileID { // also in the log
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close()
				if again.ID() != s.ID() {
					t.Error("the ID is another")
				}
				return
			}
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(corrupt.File, file) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestProposeErrors(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Bootstrap = false
	s, _ := mustOpen(t, cfg, nil)
	var notLeader *NotLeaderError
	if _, err := s.Propose(testContext(t), flavorCommand("a")); !errors.As(err, &notLeader) {
		t.Errorf("propose without a leader: %v", err)
	}
	if err := s.ReadIndex(testContext(t)); !errors.As(err, &notLeader) {
		t.Errorf("read without a leader: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Propose(ended, flavorCommand("a")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknown) {
		t.Errorf("propose with an ended context: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(testContext(t), flavorCommand("a")); !errors.Is(err, ErrUnknown) {
		t.Errorf("propose after Close: %v", err)
	}
}

func TestRejectionsComeBack(t *testing.T) {
	s, _ := mustOpen(t, testConfig(t.TempDir()), nil)
	awaitLeader(t, s)
	propose(t, s, "a")
	r, err := s.Propose(testContext(t), flavorCommand("a"))
	if err != nil || len(r.Rejections) != 1 || r.Rejections[0].Reason != state.RejectExists {
		t.Errorf("%+v %v", r, err)
	}
}
