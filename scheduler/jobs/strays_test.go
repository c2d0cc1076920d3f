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
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// restored has the leader lead a cluster that was restored, beside an output of which the ledger knows one manifest.
func (l *leader) restored(confirmed uint64) {
	l.t.Helper()
	l.c.Resign()
	l.commit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{{From: 0, To: 1, Task: "0", Attempt: "a", Successful: 1}}, Seal: []string{"0"}})
	l.commit(&fleetv1.JobCommit{JobId: "jid", Written: []*fleetv1.Manifest{{Task: "0"}}})
	for _, name := range []string{"infer-result-0.manifest", "infer-result-0_1.manifest", "infer-result-2.manifest", "infer-result-0/a_result.txt", "infer-result-2/b.manifest", "my.manifest"} {
		path := filepath.Join(l.dir, "out", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	l.write(state.Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c"}, RestoreEpoch: 7, RemovalsConfirmed: confirmed}))
	l.c.Lead(l.t.Context())
	l.after(time.Second)
}

func (l *leader) manifests() []string {
	l.t.Helper()
	var names []string
	for _, pattern := range []string{"*.manifest", "*/*.manifest"} {
		paths, err := filepath.Glob(filepath.Join(l.dir, "out", pattern))
		if err != nil {
			l.t.Fatal(err)
		}
		for _, p := range paths {
			names = append(names, strings.TrimPrefix(p, filepath.Join(l.dir, "out")+"/"))
		}
	}
	return names
}

// TestRestoredLedger: manifests that the ledger doesn't have are removed before one is made, for their items are run again.
func TestRestoredLedger(t *testing.T) {
	all := []string{"infer-result-0.manifest", "infer-result-0_1.manifest", "infer-result-2.manifest", "my.manifest", "infer-result-2/b.manifest"}
	kept := []string{"infer-result-0.manifest", "my.manifest", "infer-result-2/b.manifest"}
	for name, c := range map[string]struct {
		confirmed uint64
		retried   bool
		fault     bool
		deposed   bool
		want      []string
		sealed    bool
	}{
		"confirmed":           {confirmed: 7, want: kept, sealed: true},
		"not confirmed":       {want: all},
		"during a retry":      {confirmed: 7, retried: true, want: all, sealed: true},
		"another leads":       {confirmed: 7, deposed: true, want: all},
		"the storage is away": {confirmed: 7, fault: true, want: all},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, 2, func(l *leader) {
				l.after(3 * time.Second)
				if c.retried {
					led := proto.CloneOf(l.ledger())
					led.Position = fleetv1.PositionOfRetry
					l.write(state.Put(led.GetMeta().GetRevision(), led))
				}
				if c.fault {
					l.failing("delete", storage.ErrTemporary)
				}
				l.restored(c.confirmed)
				if c.deposed {
					l.set(func() { l.fail = func() error { return errors.New("not the leader") } })
				}
				l.instance("i1")
				l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1"})
				chunk := &fleetv1.Chunk{From: 1, To: 2, Task: "0", Attempt: "b", Successful: 1}
				l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", Chunks: []*fleetv1.TaskChunk{{Chunk: chunk, State: fleetv1.ChunkPacked}}})
				l.after(10 * time.Second)
				if got := l.manifests(); !slices.Equal(got, c.want) {
					t.Errorf("there are %v, want %v", got, c.want)
				}
				if led := l.ledger(); len(led.GetSealed()) > 0 != c.sealed || len(led.GetUnsealed()) > 0 == c.sealed {
					t.Errorf("the ledger is %v", led)
				}
				if waits := strings.Contains(l.c.Trouble("jid"), "because"); waits != c.fault || c.deposed && !strings.Contains(l.c.Trouble("jid"), "not the leader") {
					t.Errorf("trouble is %q", l.c.Trouble("jid"))
				}
			})
		})
	}
}

// TestSetupOfRestoredLedger: a task learns of parts that were listed otherwise after a restore, however many there are.
func TestSetupOfRestoredLedger(t *testing.T) {
	lead(t, 2, func(l *leader) {
		l.after(3 * time.Second)
		l.instance("i1")
		version := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1"}).GetSetup().GetVersion()
		if s := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", SetupVersion: version}).GetSetup(); s != nil {
			t.Errorf("the same setup is sent again: %v", s)
		}
		led := proto.CloneOf(l.ledger())
		led.Parts[0].Object = "another"
		l.write(state.Put(led.GetMeta().GetRevision(), led))
		if s := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", SetupVersion: version}).GetSetup(); len(s.GetParts()) != 1 || s.GetParts()[0].GetObject() != "another" {
			t.Errorf("the setup is %v", s)
		}
	})
}

// TestStraysOfDeletedJob: the output of a job that is deleted meanwhile stays.
func TestStraysOfDeletedJob(t *testing.T) {
	lead(t, 2, func(l *leader) {
		l.after(3 * time.Second)
		l.restored(0)
		r, led := l.c.run("jid"), l.ledger()
		l.set(func() {
			l.fail = func() error {
				l.fail = nil
				l.apply(&fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{
					Mutations: []*fleetv1.Mutation{state.Delete(led.GetMeta().GetRevision(), state.JobLedgerKey("jid"))}}}})
				return nil
			}
			l.faults = func(op string, u storage.URL) error {
				if op == "delete" {
					t.Errorf("%s is removed", u)
				}
				return nil
			}
		})
		if err := r.removeStrays(); err != nil {
			t.Error(err)
		}
		if l.ledger() != nil {
			t.Error("the job wasn't deleted")
		}
	})
}
