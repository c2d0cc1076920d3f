package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testOptions() Options {
	return Options{
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return start }, WriteDelay: time.Millisecond,
	}
}

func mustOpen(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func ref(kind, id, name, project string) *fleetv1.ObjectRef {
	return &fleetv1.ObjectRef{Kind: kind, Id: id, Name: name, Project: project}
}

func event(index uint64, n int, kind string, at time.Time, refs ...*fleetv1.ObjectRef) *fleetv1.Event {
	return &fleetv1.Event{Id: fmt.Sprintf("%d-%d", index, n), Type: kind, Reason: "Tested", Time: timestamppb.New(at), Objects: refs}
}

func ids(evs []*fleetv1.Event) string {
	var out []string
	for _, e := range evs {
		out = append(out, e.GetId())
	}
	return strings.Join(out, " ")
}

func listed(t testing.TB, s *Store, q Query) string {
	t.Helper()
	evs, err := s.List(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return ids(evs)
}

// fill appends events of two services, their instances and a node.
func fill(s *Store) {
	web, gpt := ref("service", "id-web", "web", "default"), ref("service", "id-gpt", "gpt", "other")
	node := ref("node", "id-n1", "n1", "")
	s.Append(3, []*fleetv1.Event{
		event(3, 1, "Normal", start, web), event(3, 2, "Warning", start.Add(time.Minute), ref("instance", "i1", "web-1", "default"), web, node),
	})
	s.Append(7, []*fleetv1.Event{event(7, 1, "Abnormal", start.Add(2*time.Minute), gpt, node)})
	s.Append(9, []*fleetv1.Event{event(9, 1, "Normal", start.Add(3*time.Minute), node)})
}

func TestListSelects(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), testOptions())
	fill(s)
	for _, tt := range []struct {
		name string
		q    Query
		want string
	}{
		{"all", Query{}, "3-1 3-2 7-1 9-1"},
		{"by name", Query{Kind: "service", Name: "web"}, "3-1 3-2"},
		{"by ID", Query{Kind: "service", Name: "id-gpt"}, "7-1"},
		{"by node", Query{Kind: "node", Name: "n1"}, "3-2 7-1 9-1"},
		{"by node, newest", Query{Kind: "node", Name: "n1", Limit: 2}, "7-1 9-1"},
		{"by kind", Query{Kind: "instance"}, "3-2"},
		{"by project", Query{Project: "default"}, "3-1 3-2"},
		{"of another project", Query{Project: "other", Kind: "service", Name: "web"}, ""},
		{"problems", Query{Problems: true}, "3-2 7-1"},
		{"since", Query{Since: start.Add(2 * time.Minute)}, "7-1 9-1"},
		{"newest", Query{Limit: 1}, "9-1"},
		{"unknown", Query{Kind: "service", Name: "we"}, ""},
		{"last object", Query{Kind: "service", Name: "web", Limit: 1}, "3-2"},
	} {
		if got := listed(t, s, tt.q); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReopenKeepsAndReplaySkips(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	s := mustOpen(t, path, testOptions())
	fill(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, testOptions())
	fill(s) // the log is applied again
	s.Append(12, []*fleetv1.Event{event(12, 1, "Normal", start, ref("node", "id-n1", "n1", ""))})
	if got := listed(t, s, Query{}); got != "3-1 3-2 7-1 9-1 12-1" {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{"n1", "id-n1"} {
		if got := listed(t, s, Query{Kind: "node", Name: name}); got != "3-2 7-1 9-1 12-1" {
			t.Errorf("those of %s: %q", name, got)
		}
	}
}

func TestFlushMakesDurable(t *testing.T) {
	o := testOptions()
	o.WriteDelay = time.Hour
	path := filepath.Join(t.TempDir(), "events.db")
	s := mustOpen(t, path, o)
	fill(s)
	if err := s.Flush(9); err != nil {
		t.Fatal(err)
	}
	// What a kill leaves: the file as it is now.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "events.db")
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, mustOpen(t, copied, o), Query{}); got != "3-1 3-2 7-1 9-1" {
		t.Errorf("after the kill: %q", got)
	}
}

func TestBounds(t *testing.T) {
	o := testOptions()
	o.MaxCount = 10
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), o)
	web := ref("service", "id-web", "web", "default")
	for i := uint64(1); i <= 60; i++ {
		s.Append(i, []*fleetv1.Event{event(i, 1, "Normal", start, web)})
	}
	evs, err := s.List(t.Context(), Query{})
	if err != nil || len(evs) != 10 || evs[0].GetId() != "51-1" {
		t.Errorf("%v, %v", ids(evs), err)
	}
	if got := listed(t, s, Query{Kind: "service", Name: "web"}); got != ids(evs) {
		t.Errorf("the index by object has %q", got)
	}
}

func TestPruneByAge(t *testing.T) {
	now := start
	o := testOptions()
	o.Now = func() time.Time { return now }
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), o)
	web, node := ref("service", "id-web", "web", "default"), ref("node", "id-n1", "n1", "")
	s.Append(1, []*fleetv1.Event{event(1, 1, "Normal", start, web), event(1, 2, "Normal", start, node, web)})
	s.Append(2, []*fleetv1.Event{event(2, 1, "Normal", start.AddDate(0, 0, 20), web)})
	if got := listed(t, s, Query{}); got != "1-1 1-2 2-1" {
		t.Fatal(got)
	}
	if err := s.Close(); err != nil { // the writer is gone: the test may prune in its place
		t.Fatal(err)
	}
	for _, tt := range []struct {
		days int
		want string
	}{{10, "1-1 1-2 2-1"}, {40, "1-2 2-1"}, {60, "1-2"}, {100, ""}} {
		now = start.AddDate(0, 0, tt.days)
		f, err := openFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		s.file = f
		s.prune()
		evs, err := f.list(t.Context(), Query{}, 99)
		if err != nil || ids(evs) != tt.want || f.count != len(evs) {
			t.Errorf("after %d days: %q (%d), want %q; %v", tt.days, ids(evs), f.count, tt.want, err)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchHasNoGapAndNoRepetition(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), testOptions())
	web := ref("service", "id-web", "web", "default")
	const total = 2000
	begun := make(chan struct{})
	go func() {
		for i := uint64(1); i <= total; i++ {
			s.Append(i, []*fleetv1.Event{event(i, 1, "Normal", start, web)})
			if i == 100 {
				close(begun)
			}
		}
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var next uint64
	enough := errors.New("enough")
	err := s.Watch(ctx, Query{Kind: "service", Name: "web"}, func(evs []*fleetv1.Event) error {
		for _, e := range evs {
			var index uint64
			fmt.Sscanf(e.GetId(), "%d-", &index)
			if next != 0 && index != next {
				return fmt.Errorf("event %d came where %d belongs", index, next)
			}
			next = index + 1
		}
		if next == total+1 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestSlowWatcherIsDropped(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), testOptions())
	fill(s)
	index := uint64(100)
	err := s.Watch(t.Context(), Query{}, func([]*fleetv1.Event) error {
		for range watchLimit + 1 {
			index++
			s.Append(index, []*fleetv1.Event{event(index, 1, "Normal", start)})
		}
		return nil
	})
	if !errors.Is(err, ErrSlow) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsWatchers(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "events.db"), testOptions())
	fill(s)
	done, seen := make(chan error, 1), make(chan struct{})
	go func() {
		done <- s.Watch(context.Background(), Query{}, func([]*fleetv1.Event) error { close(seen); return nil })
	}()
	<-seen
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("watch: %v", err)
	}
	if _, err := s.List(t.Context(), Query{}); !errors.Is(err, ErrClosed) {
		t.Errorf("list: %v", err)
	}
}

// Whatever byte of the file changes, the store opens: with all its events, or with a new file and the old
// one aside.
func TestDamagedFileIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.db")
	s := mustOpen(t, path, testOptions())
	fill(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	aside := 0
	for at := 0; at < len(good); at += 61 {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x41
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		moved, _ := filepath.Glob(path + ".corrupt-*")
		want := "3-1 3-2 7-1 9-1"
		if len(moved) > 0 {
			want = ""
			aside++
			os.Remove(moved[0])
		}
		if got := listed(t, s, Query{}); got != want {
			t.Fatalf("byte %d: moved aside %v, has %q", at, moved, got)
		}
		s.Append(20, []*fleetv1.Event{event(20, 1, "Normal", start)})
		if got := listed(t, s, Query{Limit: 1}); got != "20-1" {
			t.Fatalf("byte %d: after an append: %q", at, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if aside == 0 {
		t.Error("no damage was found")
	}
}
