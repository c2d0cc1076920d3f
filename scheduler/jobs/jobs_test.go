package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leader is a coordinator over a real store and real files.
type leader struct {
	t     *testing.T
	c     *Coordinator
	store *state.Store
	dir   string

	mu      sync.Mutex
	index   uint64
	commits []time.Time
	events  []*fleetv1.Event
	fail    func() error // of the next proposals; nil for none. What it refuses may still be applied
	faults  func(op string, u storage.URL) error
	keys    int // that the input is said to have instead of what it has; 0 for none
}

// lead calls f in a bubble with a coordinator that leads. The job's input has so many files, named by number.
func lead(t *testing.T, files int, f func(*leader)) { leadOver(t, files, 0, f) }

func leadOver(t *testing.T, files, keys int, f func(*leader)) {
	dir := t.TempDir()
	for _, name := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, "in", fmt.Sprintf("%04d.json", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 0, 1)
		l := &leader{t: t, store: w.store, dir: dir, keys: keys, index: w.index}
		job := proto.CloneOf(l.job())
		job.Spec.Input, job.Spec.Output = "file://"+dir+"/in/", "file://"+dir+"/out"
		l.write(state.Put(job.GetMeta().GetRevision(), job))
		l.c = New(Config{State: l.store, Proposer: l, Storage: l.open, Access: func(string) ([]*fleetv1.StorageAccess, error) { return nil, nil }})
		l.c.Lead(t.Context())
		defer l.c.Resign()
		f(l)
	})
}

func (l *leader) job() *fleetv1.Job { return l.store.View().JobByID("jid") }

func (l *leader) ledger() *fleetv1.JobLedger { return l.store.View().JobLedger("jid") }

func (l *leader) write(m ...*fleetv1.Mutation) {
	l.t.Helper()
	cmd := &fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.apply(cmd); len(r.Rejections) > 0 {
		l.t.Fatalf("refused: %v", r.Rejections)
	}
}

func (l *leader) apply(cmd *fleetv1.Command) state.Result {
	l.index++
	cmd.Introduced = state.Introduced(cmd)
	r, events := l.store.Apply(l.index, cmd)
	l.events = append(l.events, events...)
	return r
}

// Propose implements Proposer.
func (l *leader) Propose(_ context.Context, cmd *fleetv1.Command) (state.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits = append(l.commits, time.Now())
	r := l.apply(cmd)
	if l.fail != nil {
		return state.Result{}, l.fail()
	}
	return r, nil
}

func (l *leader) open(string) (Storage, error) {
	s, err := storage.Open(storage.Config{Dirs: []string{l.dir}, Attempts: 1})
	return &faulty{s, l}, err
}

// faulty is a storage that fails as the test says.
type faulty struct {
	*storage.Storage
	l *leader
}

func (f *faulty) fault(op string, u storage.URL) error {
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	if f.l.faults == nil {
		return nil
	}
	return f.l.faults(op, u)
}

func (f *faulty) List(ctx context.Context, folder storage.URL, after string) iter.Seq2[storage.Object, error] {
	if f.l.keys > 0 {
		return f.many(folder, after)
	}
	return func(yield func(storage.Object, error) bool) {
		for o, err := range f.Storage.List(ctx, folder, after) {
			if fault := f.fault("list", o.URL); fault != nil {
				yield(storage.Object{}, fault)
				return
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// many lists so many keys without holding them.
func (f *faulty) many(folder storage.URL, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for i := range f.l.keys {
			u, err := folder.Join(fmt.Sprintf("%03d/%09d.jpg", i/1000, i))
			if u.Key > after && !yield(storage.Object{URL: u, Size: 1, ETag: "e"}, err) {
				return
			}
		}
	}
}

func (f *faulty) Read(ctx context.Context, u storage.URL, opts storage.ReadOptions) (io.ReadCloser, storage.Object, error) {
	if err := f.fault("read", u); err != nil {
		return nil, storage.Object{}, err
	}
	return f.Storage.Read(ctx, u, opts)
}

func (f *faulty) Stat(ctx context.Context, u storage.URL) (storage.Object, error) {
	if err := f.fault("stat", u); err != nil {
		return storage.Object{}, err
	}
	return f.Storage.Stat(ctx, u)
}

func (f *faulty) Write(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error {
	if err := f.fault("write", u); err != nil {
		return err
	}
	return f.Storage.Write(ctx, u, r, size)
}

func (f *faulty) Delete(ctx context.Context, u storage.URL) error {
	if err := f.fault("delete", u); err != nil {
		return err
	}
	return f.Storage.Delete(ctx, u)
}

// set changes what fails.
func (l *leader) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// after lets time pass.
func (l *leader) after(d time.Duration) {
	time.Sleep(d) // synctest's clock
	synctest.Wait()
}

// items are all that the ledger lists, as tasks would read them.
func (l *leader) items() []batch.Item {
	l.t.Helper()
	store, err := l.open("")
	if err != nil {
		l.t.Fatal(err)
	}
	defer store.Close()
	dir, err := storage.ParseURL(directoryOf(l.job()))
	if err != nil {
		l.t.Fatal(err)
	}
	var all []batch.Item
	for _, part := range l.ledger().GetParts() {
		items, err := readPart(l.t.Context(), store, dir, part)
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, items...)
	}
	return all
}

// instance places one of the job, ready, on a node of its own.
func (l *leader) instance(id string, change ...func(*fleetv1.Instance)) {
	inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Name: "job.j-" + id, Id: id, Project: "default"},
		Spec:     &fleetv1.InstanceSpec{ServiceId: "sid", JobId: "jid", Node: "n-" + id, Model: "m", ModelVersion: "0.0.1", Flavor: "f"},
		Desired:  &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true}}
	for _, f := range change {
		f(inst)
	}
	l.write(state.Put(0, inst))
}

// manifest has the job's input be one, and waits until it is listed.
func (l *leader) manifest(in string) {
	l.t.Helper()
	l.relist(func() {
		if err := os.WriteFile(filepath.Join(l.dir, "in", "a.manifest"), []byte(in), 0o600); err != nil {
			l.t.Fatal(err)
		}
		job := proto.CloneOf(l.job())
		job.Spec.Input += "a.manifest"
		l.write(state.Put(job.GetMeta().GetRevision(), job))
	})
	l.after(5 * time.Second)
}

// relist has the input listed from its start, after a change: lead may have listed it before its test begins.
func (l *leader) relist(change func()) {
	l.t.Helper()
	l.c.Resign()
	change()
	led := proto.CloneOf(l.ledger())
	led.Parts, led.Items, led.Listed, led.Position = nil, 0, false, ""
	l.write(state.Put(led.GetMeta().GetRevision(), led))
	l.c.Lead(l.t.Context())
}

// failing has calls of a kind fail.
func (l *leader) failing(kind string, fault error) {
	l.set(func() {
		l.faults = func(op string, _ storage.URL) error {
			if op == kind {
				return &storage.Error{Op: op, Kind: fault, Why: "because"}
			}
			return nil
		}
	})
}

func (l *leader) call(req *fleetv1.ExchangeTaskRequest) *fleetv1.ExchangeTaskResponse {
	l.t.Helper()
	resp, err := l.c.ExchangeTask(l.t.Context(), req)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp
}

// TestJobFromInputToManifest goes the whole way with one task.
func TestJobFromInputToManifest(t *testing.T) {
	lead(t, 30, func(l *leader) {
		var heard atomic.Int64
		defer l.c.OnProgress(func(string) { heard.Add(1) })()
		l.after(3 * time.Second)
		if led := l.ledger(); !led.GetListed() || led.GetItems() != 30 || len(led.GetParts()) != 1 {
			t.Fatalf("the ledger is %v", led)
		}
		l.instance("i1")
		resp := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", Room: 1000})
		s := resp.GetSetup()
		if resp.GetTask() != "0" || s.GetJobName() != "j" || s.GetDirectory() != "file://"+l.dir+"/out/.drover/jid/" || len(s.GetParts()) != 1 || s.GetRoute() == nil || len(resp.GetChunks()) != 2 {
			t.Fatalf("the first answer is %v", resp)
		}
		version := s.GetVersion()
		written := 0
		for range 60 {
			req := &fleetv1.ExchangeTaskRequest{InstanceId: "i1", Task: "0", SetupVersion: version, Room: 1000, Progress: &fleetv1.TaskProgress{Rate: 5}}
			for _, c := range resp.GetChunks() {
				switch c.State {
				case fleetv1.ChunkRunning:
					c.State, c.Chunk.Successful = fleetv1.ChunkPacked, c.GetChunk().GetTo()-c.GetChunk().GetFrom()
				case fleetv1.ChunkPublishing:
					c.State = fleetv1.ChunkPublished
				}
				req.Chunks = append(req.Chunks, proto.CloneOf(c))
			}
			for _, m := range resp.GetManifests() {
				written++
				req.Written = append(req.Written, &fleetv1.Manifest{Task: m.GetTask(), Number: m.GetNumber()})
			}
			if resp = l.call(req); resp.GetSetup() != nil {
				t.Fatalf("the setup is sent again: %v", resp.GetSetup())
			}
			l.after(time.Second)
		}
		led := l.ledger()
		if led.GetSuccessful() != 30 || len(led.GetUnsealed())+len(led.GetSealed()) != 0 || written != 1 || heard.Load() == 0 {
			t.Errorf("the ledger is %v after %d manifests", led, written)
		}
		p, tasks := l.c.Progress("jid")
		if p.GetItems() != 30 || p.GetLeft() != 0 || p.GetSuccessful() != 30 || !slices.Equal(p.GetManifests(), []string{"infer-result-0.manifest"}) || len(tasks) != 1 || tasks[0].GetInstance() != "job.j-i1" {
			t.Errorf("its progress is %v, of %v", p, tasks)
		}
		for i := 1; i < len(l.commits); i++ {
			if d := l.commits[i].Sub(l.commits[i-1]); d < time.Second {
				t.Errorf("two commits within %v", d)
			}
		}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(l.c)
		families, err := reg.Gather()
		if err != nil || len(families) != 5 { // no latencies were told
			t.Errorf("metrics: %v, %v", families, err)
		}
	})
}

// TestCallAfterCommit: who has packed a chunk is to call when it should be known whether that is committed.
func TestCallAfterCommit(t *testing.T) {
	lead(t, 30, func(l *leader) {
		l.after(3 * time.Second)
		l.instance("i1")
		chunks := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", Room: 1000}).GetChunks()
		for i, since := range []time.Duration{time.Hour, 100 * time.Millisecond} { // the last commit
			c := chunks[i]
			c.State, c.Chunk.Successful = fleetv1.ChunkPacked, c.GetChunk().GetTo()-c.GetChunk().GetFrom()
			req := &fleetv1.ExchangeTaskRequest{InstanceId: "i1", Task: "0", Chunks: chunks}
			next := time.Duration(l.call(req).GetNextMillis()) * time.Millisecond
			if want := max(commitEvery-since, 0) + commitTime; next != want {
				t.Errorf("chunk %d: it is to call again in %v, want %v", i, next, want)
			}
			l.after(next)
			if got := l.call(req).GetChunks()[i].GetState(); got != fleetv1.ChunkPublishing {
				t.Errorf("chunk %d is %s", i, got)
			}
			l.after(100*time.Millisecond - commitTime)
		}
	})
}

func TestExchangeRefuses(t *testing.T) {
	lead(t, 1, func(l *leader) {
		synctest.Wait()
		l.instance("rank1", func(i *fleetv1.Instance) { i.Spec.Gang = &fleetv1.Gang{Id: "g", Rank: 1, Size: 2} })
		l.instance("other", func(i *fleetv1.Instance) { i.Spec.JobId = "" })
		l.instance("i1")
		for id, want := range map[string]codes.Code{"rank1": codes.FailedPrecondition, "other": codes.NotFound, "nobody": codes.NotFound, "": codes.NotFound, "job.j-i1": codes.NotFound} {
			if _, err := l.c.ExchangeTask(l.t.Context(), &fleetv1.ExchangeTaskRequest{InstanceId: id}); status.Code(err) != want {
				t.Errorf("instance %q: %v, want %v", id, err, want)
			}
		}
		job := proto.CloneOf(l.job())
		job.Status = &fleetv1.JobStatus{State: fleetv1.JobStopped, Run: 1}
		l.write(state.Put(job.GetMeta().GetRevision(), job))
		synctest.Wait()
		if resp := l.call(&fleetv1.ExchangeTaskRequest{InstanceId: "i1", Room: 5}); !resp.GetStop() || len(resp.GetChunks()) != 0 {
			t.Errorf("a task of a job that has ended is told %v", resp)
		}
		if p, _ := l.c.Progress("jid"); p != nil {
			t.Errorf("a job that has ended has progress: %v", p)
		}
		l.c.Resign()
		if _, err := l.c.ExchangeTask(l.t.Context(), &fleetv1.ExchangeTaskRequest{InstanceId: "i1"}); status.Code(err) != codes.Unavailable {
			t.Errorf("who doesn't lead says %v", err)
		}
	})
}

// TestListGoesOn: a new leader lists behind what is in the ledger, and names as one would have that listed all.
func TestListGoesOn(t *testing.T) {
	lead(t, 50, func(l *leader) {
		dup := filepath.Join(l.dir, "in", "z")
		if err := os.MkdirAll(dup, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dup, "0001.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		l.c.Resign()
		// As if an earlier leader had listed three, in a part of its own.
		store, err := l.open("")
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		early := &lister{run: &run{term: &term{Coordinator: l.c}, ctx: l.t.Context(), settled: make(chan struct{}, 1), wakeup: make(chan struct{}, 1)}, store: store, namer: batch.NewNamer()}
		if early.dir, err = storage.ParseURL(directoryOf(l.job())); err != nil {
			t.Fatal(err)
		}
		led := proto.CloneOf(l.ledger())
		led.Parts, led.Items, led.Listed, led.Position = nil, 0, false, ""
		for i := range 3 {
			if err := early.add(batch.Item{Source: fmt.Sprintf("file://%s/in/%04d.json", l.dir, i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := early.flush(false); err != nil {
			t.Fatal(err)
		}
		led.Parts, led.Items = []*fleetv1.InputPart{early.found[0].part}, 3
		led.Position = positionOfKey + strings.TrimPrefix(l.dir, "/") + "/in/0002.json"
		l.write(state.Put(led.GetMeta().GetRevision(), led))
		l.c.Lead(l.t.Context())
		l.after(5 * time.Second)
		items := l.items()
		names := map[string]bool{}
		for i, item := range items {
			if item.N != int64(i) || names[item.Name] {
				t.Errorf("item %d is %v", i, item)
			}
			names[item.Name] = true
		}
		if len(items) != 51 || !l.ledger().GetListed() || items[50].Name != "z__0001.json_result.txt" {
			t.Errorf("%d items are listed, the last one %v", len(items), items[len(items)-1])
		}
	})
}

// TestManifestInput: lines that can't be used are items that say why.
func TestManifestInput(t *testing.T) {
	lead(t, 0, func(l *leader) {
		l.manifest(`{"source":"s3://b/one.json"}` + "\n" + `{"nothing":1}` + "\n\n" + `no` + "\n" + `{"source":"https://h/x.json?sig=1"}`)
		l.after(5 * time.Second)
		var got []string
		for _, item := range l.items() {
			got = append(got, item.Source+"|"+item.Error)
		}
		if len(got) != 4 || got[0] != "s3://b/one.json|" || !strings.HasPrefix(got[1], "a.manifest:2|line 2 of the manifest") || !strings.HasPrefix(got[2], "a.manifest:4|line 4") || got[3] != "https://h/x.json?sig=1|" {
			t.Errorf("the items are %q", got)
		}
	})
}

// TestListingInTrouble: a storage that is away is waited for, one that refuses fails the job after a while.
func TestListingInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		fault error
		fails bool
	}{
		"away":   {storage.ErrTemporary, false},
		"full":   {storage.ErrFull, false},
		"denied": {storage.ErrDenied, true},
	} {
		t.Run(name, func(t *testing.T) {
			lead(t, 5, func(l *leader) {
				l.relist(func() { l.failing("write", c.fault) })
				l.after(time.Minute)
				if l.ledger().GetFailure() != "" || !strings.Contains(l.c.Trouble("jid"), "because") {
					t.Errorf("after a minute: failure %q, trouble %q", l.ledger().GetFailure(), l.c.Trouble("jid"))
				}
				l.after(5 * time.Minute)
				if failed := strings.Contains(l.ledger().GetFailure(), "because"); failed != c.fails {
					t.Errorf("after minutes: failure %q", l.ledger().GetFailure())
				}
				l.set(func() { l.faults = nil })
				l.after(2 * time.Minute)
				if l.ledger().GetListed() == c.fails || l.c.Trouble("jid") != "" {
					t.Errorf("when all is well again: %v, trouble %q", l.ledger(), l.c.Trouble("jid"))
				}
			})
		})
	}
}

// TestInputIsAway: a folder that is missing or empty has not been listed to its end.
func TestInputIsAway(t *testing.T) {
	for name, back := range map[string]bool{"for a minute": true, "for good": false} {
		t.Run(name, func(t *testing.T) {
			lead(t, 0, func(l *leader) {
				l.after(time.Minute)
				if led := l.ledger(); led.GetListed() || !strings.Contains(l.c.Trouble("jid"), "nothing is in it") {
					t.Fatalf("the ledger is %v, trouble %q", led, l.c.Trouble("jid"))
				}
				if back {
					if err := os.WriteFile(filepath.Join(l.dir, "in", "a.json"), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				l.after(5 * time.Minute)
				if led := l.ledger(); led.GetListed() != back || (led.GetFailure() == "") != back {
					t.Errorf("the ledger is %v", led)
				}
			})
		})
	}
}

// TestUnknownOutcome: what was committed though the proposal failed is not committed again.
func TestUnknownOutcome(t *testing.T) {
	lead(t, 5, func(l *leader) {
		l.set(func() { l.fail = func() error { return errors.New("unknown") } })
		l.after(3 * time.Second)
		l.set(func() { l.fail = nil })
		l.after(3 * time.Second)
		if led := l.ledger(); !led.GetListed() || led.GetItems() != 5 || led.GetFailure() != "" {
			t.Errorf("the ledger is %v", led)
		}
		l.after(time.Minute)
		before := len(l.commits)
		l.after(time.Minute)
		if n := len(l.commits) - before; n != 0 {
			t.Errorf("%d commits while nothing happens", n)
		}
	})
}

// TestListMany: a big input is listed part by part, and goes on where it was when another scheduler takes over.
func TestListMany(t *testing.T) {
	const keys = 100_000
	leadOver(t, 0, keys, func(l *leader) {
		most := 0
		l.set(func() {
			l.faults = func(op string, _ storage.URL) error {
				if r := l.c.run("jid"); op == "write" && r != nil {
					r.mu.Lock()
					most = max(most, len(r.found))
					r.mu.Unlock()
				}
				return nil
			}
		})
		l.after(1500 * time.Millisecond)
		l.c.Resign()
		l.c.Lead(l.t.Context())
		l.after(time.Minute)
		led := l.ledger()
		if !led.GetListed() || led.GetItems() != keys || len(led.GetParts()) > keys/batch.PartItems+1 || most >= mostFound {
			t.Fatalf("%d items in %d parts, listed %v; %d parts waited", led.GetItems(), len(led.GetParts()), led.GetListed(), most)
		}
		seen := map[string]bool{}
		for _, item := range l.items() {
			seen[item.Name] = true
		}
		if len(seen) != keys {
			t.Errorf("%d items have %d names", keys, len(seen))
		}
	})
}
