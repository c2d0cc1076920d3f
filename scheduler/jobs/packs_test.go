package jobs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// own is the folder of the job beside its output.
func (l *leader) own() string { return filepath.Join(l.dir, "out", ".drover", "jid") }

// pack puts one beside the output.
func (l *leader) pack(name string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.own(), name), []byte("x"), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// packs are those that are there.
func (l *leader) packs() []string {
	l.t.Helper()
	paths, err := filepath.Glob(filepath.Join(l.own(), "pack-*"))
	if err != nil {
		l.t.Fatal(err)
	}
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	return paths
}

// half commits the first item of two, in the manifest that the task is told to write.
func (l *leader) half() {
	l.t.Helper()
	l.after(3 * time.Second)
	l.instance("i1")
	l.commit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{{From: 0, To: 1, Task: "0", Attempt: "a", Successful: 1}}, Seal: []string{"0"}})
	l.pack("pack-0-a")
}

// whole commits everything.
func (l *leader) whole() {
	l.t.Helper()
	l.commit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{{From: 1, To: 2, Task: "0", Attempt: "b", Successful: 1}}, Seal: []string{"0"}})
	l.commit(&fleetv1.JobCommit{JobId: "jid", Written: []*fleetv1.Manifest{{Task: "0"}, {Task: "0", Number: 1}}})
}

// TestPacksOfCompleteJob: they are removed when nobody can need them, and a storage that removes nothing is given up in the end.
func TestPacksOfCompleteJob(t *testing.T) {
	fault := &storage.Error{Op: "delete", Kind: storage.ErrDenied, Why: "because"}
	for name, c := range map[string]struct {
		incomplete, unconfirmed bool
		faulty                  time.Duration // for which nothing can be removed
		removed                 bool          // in the end
		tidied                  time.Duration // by when; 0 for never
	}{
		"complete":                {removed: true, tidied: 3 * time.Second},
		"not complete":            {incomplete: true},
		"restored, not confirmed": {unconfirmed: true},
		"refused for a while":     {faulty: time.Minute, removed: true, tidied: 2 * time.Minute},
		"refused":                 {faulty: time.Hour, tidied: 4 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, 2, func(l *leader) {
				l.half()
				l.pack("pack-1-b")
				l.pack("pack-1-refused")
				other := filepath.Join(l.dir, "out", ".drover", "other")
				if err := errors.Join(os.MkdirAll(other, 0o755), os.WriteFile(filepath.Join(other, "pack-0-a"), nil, 0o600),
					os.MkdirAll(filepath.Join(l.own(), "pack-0"), 0o755), os.WriteFile(filepath.Join(l.own(), "pack-0", "mine"), nil, 0o600)); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				l.set(func() {
					l.faults = func(op string, _ storage.URL) error {
						if op == "delete" && time.Since(began) < c.faulty {
							return fault
						}
						return nil
					}
				})
				if c.unconfirmed {
					l.write(state.Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c"}, RestoreEpoch: 7}))
				}
				if !c.incomplete {
					l.whole()
				}
				if c.faulty > 0 {
					l.after(30 * time.Second)
					if l.c.Tidied("jid") || !strings.Contains(l.c.Trouble("jid"), "because") {
						t.Errorf("tidied %v, trouble %q", l.c.Tidied("jid"), l.c.Trouble("jid"))
					}
				}
				l.after(max(c.tidied, 10*time.Second) - time.Since(began))
				if l.c.Tidied("jid") != (c.tidied > 0) || l.c.Trouble("jid") != "" {
					t.Errorf("tidied %v, trouble %q", l.c.Tidied("jid"), l.c.Trouble("jid"))
				}
				want := []string{"pack-0", "pack-0-a", "pack-1-b", "pack-1-refused"}
				if c.removed {
					want = want[:1]
				}
				if got := l.packs(); !slices.Equal(got, want) {
					t.Errorf("there are %v, want %v", got, want)
				}
				if _, err := os.Stat(filepath.Join(other, "pack-0-a")); err != nil {
					t.Error(err)
				}
				if items := l.items(); len(items) != 2 {
					t.Errorf("the index has %v", items)
				}
			})
		})
	}
}

// TestPacksAreRemovedByTheNextLeader: a job that wasn't said to be completed is looked at again; and a run that goes on
// with a retry keeps what that packs.
func TestPacksAreRemovedByTheNextLeader(t *testing.T) {
	lead(t, 2, func(l *leader) {
		l.half()
		l.c.Resign()
		l.whole()
		l.c.Lead(l.t.Context())
		l.after(3 * time.Second)
		if got := l.packs(); len(got) != 0 || !l.c.Tidied("jid") {
			t.Errorf("there are %v, tidied %v", got, l.c.Tidied("jid"))
		}
		led := proto.CloneOf(l.ledger())
		led.Listed, led.Position = false, fleetv1.PositionOfRetry
		l.write(state.Put(led.GetMeta().GetRevision(), led))
		l.pack("pack-2-c")
		l.after(3 * time.Second)
		if got := l.packs(); len(got) != 1 || l.c.Tidied("jid") {
			t.Errorf("there are %v, tidied %v", got, l.c.Tidied("jid"))
		}
	})
}

// TestPacksOfDeposedLeader: who can't commit removes nothing: the job may have been retried.
func TestPacksOfDeposedLeader(t *testing.T) {
	lead(t, 2, func(l *leader) {
		l.half()
		l.c.Resign()
		l.whole()
		l.set(func() { l.fail = func() error { return errors.New("not the leader") } })
		l.c.Lead(l.t.Context())
		l.after(5 * time.Second)
		if got := l.packs(); len(got) != 1 {
			t.Errorf("there are %v", got)
		}
	})
}

// TestLostPack: a task doesn't find what it is to publish. Unless the leader finds it, the items are run again.
func TestLostPack(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(l *leader)
		lost bool
	}{
		"gone":            {func(l *leader) { remove(l, "pack-0-a") }, true},
		"not gone":        {func(*leader) {}, false},
		"not mounted":     {func(l *leader) { remove(l, "pack-0-a"); remove(l, l.ledger().GetParts()[0].GetObject()) }, false},
		"may not be read": {func(l *leader) { l.set(func() { l.faults = denied }) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, 2, func(l *leader) {
				l.half()
				req := &fleetv1.ExchangeTaskRequest{InstanceId: "i1", Task: "0", Room: 10, Lost: []string{"a", "none"}}
				if m := l.call(req).GetManifests(); len(m) != 1 {
					t.Fatalf("it is to write %v", m)
				}
				c.lose(l)
				for range 15 {
					l.call(req)
					l.after(time.Second)
				}
				led, events := l.ledger(), l.events
				if lost := led.GetSuccessful() == 0 && len(led.GetSealed()[0].GetChunks()) == 0 && len(events) == 1; lost != c.lost || !lost && len(events) > 0 {
					t.Fatalf("the ledger is %v, events %v", led, events)
				}
				if !c.lost {
					return
				}
				if events[0].GetReason() != "JobResultsLost" || !strings.HasSuffix(events[0].GetMessage(), ": 1") || events[0].GetObjects()[0].GetId() != "jid" {
					t.Errorf("told: %v", events[0])
				}
				resp := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", Task: "0", Room: 10, Written: []*fleetv1.Manifest{{Task: "0"}}})
				if m := resp.GetManifests(); len(m) != 1 || m[0].GetVersion() != 1 { // what it has written has what was lost
					t.Errorf("it is to write %v", m)
				}
				var leased []int64
				for _, tc := range resp.GetChunks() {
					leased = append(leased, tc.GetChunk().GetFrom())
				}
				if len(leased) == 0 || leased[0] != 0 {
					t.Errorf("it is leased %v", resp.GetChunks())
				}
			})
		})
	}
}

func remove(l *leader, name string) {
	l.t.Helper()
	if err := os.Remove(filepath.Join(l.own(), name)); err != nil {
		l.t.Fatal(err)
	}
}

func denied(op string, u storage.URL) error {
	if op == "stat" && batch.IsPack(filepath.Base(u.Key)) {
		return &storage.Error{Op: op, URL: u, Kind: storage.ErrDenied, Why: "because"}
	}
	return nil
}
