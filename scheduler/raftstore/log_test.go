package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func testLog(t testing.TB, dir string) logConfig {
	t.Helper()
	watch := newStallWatch(time.Hour, func(error) {})
	t.Cleanup(watch.close)
	return logConfig{
		dir: filepath.Join(dir, dirLog), segmentSize: 1024, stall: watch, fail: func(error) {}, sync: fdatasync, logger: slog.New(slog.DiscardHandler),
	}
}

// newLog makes a log in a new directory and opens it.
func newLog(t testing.TB) (*logStore, logConfig) {
	t.Helper()
	c := testLog(t, t.TempDir())
	if err := createLog(c, head{ID: "id"}, nil); err != nil {
		t.Fatal(err)
	}
	return reopen(t, c), c
}

func reopen(t testing.TB, c logConfig) *logStore {
	t.Helper()
	s, err := openLog(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // once more does nothing
	return s
}

func entries(from, to uint64) []*raft.Log {
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1 + i/10, Type: raft.LogNoop, Data: fmt.Appendf(nil, "entry %d", i)})
	}
	return logs
}

func store(t testing.TB, s *logStore, from, to uint64) {
	t.Helper()
	if err := s.StoreLogs(entries(from, to)); err != nil {
		t.Fatal(err)
	}
}

// killed is a copy of a log's files as they are now.
func killed(t testing.TB, c logConfig) logConfig {
	t.Helper()
	copied := c
	copied.dir = filepath.Join(t.TempDir(), dirLog)
	copyDir(t, c.dir, copied.dir)
	return copied
}

// TestLogAgainstModel writes, deletes, votes and restarts at random, and compares with what a map would hold.
func TestLogAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			s, c := newLog(t)
			model, first, last, term := map[uint64]*raft.Log{}, uint64(0), uint64(0), uint64(0)
			for range 120 {
				switch n := r.IntN(10); {
				case n < 5:
					from := last + 1
					if last == 0 {
						from = 1 + r.Uint64N(100)
						first = from
					}
					logs := entries(from, from+r.Uint64N(8))
					for _, l := range logs {
						l.Term, l.Data = r.Uint64(), make([]byte, r.IntN(300))
						if r.IntN(4) == 0 {
							l.Extensions = []byte("extension")
						}
						if r.IntN(4) == 0 {
							l.AppendedAt = time.Unix(0, r.Int64())
						}
						model[l.Index], last = l, l.Index
					}
					if err := s.StoreLogs(logs); err != nil {
						t.Fatal(err)
					}
				case n < 7 && last > 0:
					low, high := first, first+r.Uint64N(last-first+1)
					if r.IntN(2) == 0 {
						low, high = high, last
					}
					if err := s.DeleteRange(low, high); err != nil {
						t.Fatal(err)
					}
					for i := low; i <= high; i++ {
						delete(model, i)
					}
					switch {
					case low == first && high == last:
						first, last = 0, 0
					case low == first:
						first = high + 1
					default:
						last = low - 1
					}
				case n < 8:
					term++
					if err := s.SetUint64([]byte("CurrentTerm"), term); err != nil {
						t.Fatal(err)
					}
				case n < 9: // killed
					c = killed(t, c)
					s = reopen(t, c)
				default:
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = reopen(t, c)
				}
				same(t, s, model, bounds{first, last}, term)
			}
			if names, _ := filepath.Glob(filepath.Join(c.dir, "*"+segmentSuffix)); len(names) != len(s.segments) {
				t.Errorf("%d segments are in use, and these are there: %v", len(s.segments), names)
			}
		})
	}
}

func same(t *testing.T, s *logStore, model map[uint64]*raft.Log, b bounds, term uint64) {
	t.Helper()
	if got := s.bounds(); got != b {
		t.Fatalf("the log has entries %v, want %v", got, b)
	}
	if got, err := s.GetUint64([]byte("CurrentTerm")); got != term || term > 0 && err != nil {
		t.Fatalf("the term is %d, want %d: %v", got, term, err)
	}
	for _, cached := range []bool{true, false} {
		for i, want := range model {
			var got raft.Log
			if err := s.GetLog(i, &got); err != nil {
				t.Fatal(err)
			}
			if !got.AppendedAt.Equal(want.AppendedAt) || got.Index != want.Index || got.Term != want.Term || got.Type != want.Type ||
				string(got.Data) != string(want.Data) || string(got.Extensions) != string(want.Extensions) {
				t.Fatalf("entry %d is %+v, want %+v", i, got, *want)
			}
		}
		if cached {
			s.recent = recent{}
		}
	}
	for _, i := range []uint64{0, b.First - 1, b.Last + 1} {
		if err := s.GetLog(i, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
}

// A kill in the middle of an append leaves any part of it, in any order: it was never acknowledged, and the log opens
// with all that was.
func TestTornAppendIsDropped(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	before := killed(t, c)
	from := s.tail().used
	store(t, s, 4, 6)
	path := s.tail().path
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := s.tail().used - markSize
	r := rand.New(rand.NewPCG(1, 2))
	for cut := from + 1; cut < to; cut++ {
		torn, err := os.ReadFile(filepath.Join(before.dir, filepath.Base(path)))
		if err != nil {
			t.Fatal(err)
		}
		copy(torn[from:cut], after[from:cut])
		if r.IntN(2) == 0 { // or its end came to the disk first
			clear(torn[from:])
			copy(torn[cut:to], after[cut:to])
		}
		copied := killed(t, before)
		if err := os.WriteFile(filepath.Join(copied.dir, filepath.Base(path)), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		for round := range uint64(2) { // nothing of it comes back, not after others were written in its place
			s, err := openLog(copied)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			b := s.bounds()
			if b.First != 1 || b.Last < 3+round || b.Last > 6+round {
				t.Fatalf("cut at %d: entries %v", cut, b)
			}
			rest, err := os.ReadFile(s.tail().path)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(rest[s.tail().used:], func(b byte) bool { return b != 0 }) {
				t.Fatalf("cut at %d: remains are left", cut)
			}
			store(t, s, b.Last+1, b.Last+1)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What was acknowledged isn't taken for a torn append, with the process killed right after the answer.
func TestAcknowledgedIsNotTorn(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	store(t, s, 4, 6)
	for i := uint64(1); i <= 6; i++ {
		p := s.log.places[i-1]
		for at := p.at; at < p.at+recordHeader+entryHeader; at++ {
			if at >= p.at+9 && at < p.at+recordHeader {
				continue // always zero
			}
			copied := killed(t, c)
			flip(t, copied.path(1), at)
			var corrupt *CorruptError
			if _, err := openLog(copied); !errors.As(err, &corrupt) || corrupt.File != copied.path(1) {
				t.Fatalf("entry %d, byte %d: %v", i, at, err)
			}
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A power failure may take the last mark, which nobody waits for; the head doesn't count on it.
func TestLostMarkIsNoDamage(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	if err := s.SetUint64([]byte("CurrentTerm"), 2); err != nil {
		t.Fatal(err)
	}
	copied := killed(t, c)
	b, err := os.ReadFile(copied.path(1))
	if err != nil {
		t.Fatal(err)
	}
	clear(b[s.tail().used-markSize:])
	if err := os.WriteFile(copied.path(1), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if b := reopen(t, copied).bounds(); b != (bounds{1, 3}) {
		t.Errorf("entries %v", b)
	}
	// An entry with it is what the head counts on.
	clear(b[s.log.places[2].at:])
	if err := os.WriteFile(copied.path(1), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := openLog(copied); !errors.As(err, &corrupt) || corrupt.File != copied.path(1) {
		t.Errorf("got %v", err)
	}
}

func TestMissingSegments(t *testing.T) {
	s, c := newLog(t)
	for i := uint64(1); i <= 60; i++ {
		store(t, s, i, i)
	}
	n := s.head.Last
	if n < 4 {
		t.Fatalf("%d segments", n)
	}
	for seq := uint64(1); seq <= n; seq++ {
		copied := killed(t, c)
		if err := os.Remove(copied.path(seq)); err != nil {
			t.Fatal(err)
		}
		var corrupt *CorruptError
		if _, err := openLog(copied); !errors.As(err, &corrupt) || corrupt.File != copied.path(seq) {
			t.Errorf("segment %d: %v", seq, err)
		}
	}
	// Another segment's file in its place, and the records of a segment put somewhere else.
	copied := killed(t, c)
	if err := os.Rename(copied.path(2), copied.path(3)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(copied.path(3), copied.path(2)); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := openLog(copied); !errors.As(err, &corrupt) || corrupt.File != copied.path(3) {
		t.Errorf("a segment twice: %v", err)
	}
	// A head from before: it would forget what came since.
	old := killed(t, c)
	h := s.head
	h.Last, h.Used = h.Last-1, segmentHeader
	b, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old.dir, fileHead), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(old); !errors.As(err, &corrupt) || filepath.Base(corrupt.File) != fileHead {
		t.Errorf("an old head: %v", err)
	}
}

// A segment that was made and not yet named by the head holds nothing.
func TestUnfinishedSegmentIsRemoved(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	copied := killed(t, c)
	next := make([]byte, c.segmentSize)
	copy(next, header{Seq: 2, Size: uint64(len(next)), Salt: 7, bounds: s.bounds()}.encode())
	if err := os.WriteFile(copied.path(2), next, 0o600); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, copied)
	if _, err := os.Stat(copied.path(2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	store(t, again, 4, 60)
	if b := again.bounds(); b != (bounds{1, 60}) {
		t.Errorf("entries %v", b)
	}
}

// After a failed write nothing is known of the disk: nothing is acknowledged, and nothing written, until the files
// have been read again.
func TestFailedWriteIsTheLast(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	var failed []error
	s.fail = func(err error) { failed = append(failed, err) }
	s.sync = func(*os.File) error { return syscall.EIO }
	if err := s.StoreLogs(entries(4, 5)); !errors.Is(err, syscall.EIO) {
		t.Fatalf("fsync failed: %v", err)
	}
	if len(failed) != 1 || !errors.Is(failed[0], syscall.EIO) {
		t.Errorf("told: %v", failed)
	}
	s.sync = fdatasync
	for name, err := range map[string]error{
		"store": s.StoreLogs(entries(4, 4)), "delete": s.DeleteRange(1, 1), "set": s.SetUint64([]byte("CurrentTerm"), 9),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s after a failed fsync: %v", name, err)
		}
	}
	if b := s.bounds(); b != (bounds{1, 3}) {
		t.Errorf("entries %v are there", b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var synced []string
	c.sync = func(f *os.File) error {
		synced = append(synced, filepath.Base(f.Name()))
		return fdatasync(f)
	}
	again := reopen(t, c)
	if want := []string{filepath.Base(c.path(1)), fileHead}; !reflect.DeepEqual(synced, want) {
		t.Errorf("what was read was made durable in %v, want %v", synced, want)
	}
	if b := again.bounds(); b.First != 1 || b.Last < 3 || b.Last > 5 {
		t.Errorf("entries %v", b)
	}
}

func TestOversizedEntryAndAddress(t *testing.T) {
	s, c := newLog(t)
	big := &raft.Log{Index: 1, Type: raft.LogNoop, Data: []byte(strings.Repeat("x", 5000))}
	if err := s.StoreLog(big); err != nil {
		t.Fatal(err)
	}
	store(t, s, 2, 2)
	if err := s.Set([]byte(stableCandidate), []byte(strings.Repeat("a", 260))); err != nil {
		t.Errorf("the longest address: %v", err)
	}
	if err := s.Set([]byte(stableCandidate), []byte(strings.Repeat("a", 600))); err == nil {
		t.Error("a value that doesn't fit was taken")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := reopen(t, c).GetLog(1, &l); err != nil || len(l.Data) != 5000 {
		t.Errorf("%d bytes, %v", len(l.Data), err)
	}
}

func TestGetLogFindsDamage(t *testing.T) {
	s, c := newLog(t)
	store(t, s, 1, 3)
	s.recent = recent{}
	flip(t, c.path(1), s.log.places[1].at+recordHeader+entryHeader)
	var corrupt *CorruptError
	if err := s.GetLog(2, &raft.Log{}); !errors.As(err, &corrupt) {
		t.Errorf("got %v", err)
	}
}
