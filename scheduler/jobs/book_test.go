package jobs

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a real store with one job, and tasks that do what they are told, in a history that a seed decides.
type world struct {
	t        testing.TB
	r        *rand.Rand
	store    *state.Store
	index    uint64
	now      time.Time
	attempts int
	book     *book
	tasks    map[string]*task
	made     int // tasks so far
	commits  []time.Time
	packs    map[string]*fleetv1.Chunk // by attempt: what was put beside the output
	gone     map[string]bool           // by attempt: packs that aren't there; they may come back
	losses   int                       // chunks taken back
	written  map[manifestID]*fleetv1.Manifest
}

// task is an instance as its driver would be.
type task struct {
	id, name  string
	chunks    map[string]*fleetv1.TaskChunk
	written   []*fleetv1.Manifest
	manifests []*fleetv1.Manifest
	stop      bool
	speed     int64 // items in a step
}

func newWorld(t testing.TB, seed uint64, items, parts int64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), store: state.New(), now: noon, tasks: map[string]*task{}, packs: map[string]*fleetv1.Chunk{},
		gone: map[string]bool{}, written: map[manifestID]*fleetv1.Manifest{}}
	for _, m := range []proto.Message{
		&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p", Id: "p"}, Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Selector: map[string]string{"pool": "p"}}},
		&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f", Id: "f"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1}},
		&fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Id: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "r/m:1", Apis: []*fleetv1.APIRoute{{Url: "/x"}, {}}}},
		&fleetv1.Job{Meta: &fleetv1.Meta{Name: "j", Id: "jid", Project: "default"}, Spec: &fleetv1.JobSpec{Pool: "p", Model: "m", ModelVersion: "0.0.1", Flavor: "f", Instances: 4,
			Input: "file:///in/", Output: "file:///out"}, Desired: &fleetv1.JobDesired{State: fleetv1.DesiredRunning, Run: 1}},
		&fleetv1.JobLedger{Meta: &fleetv1.Meta{Name: "j", Id: "jid", Project: "default"}},
	} {
		w.apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, m)}}}})
	}
	if items > 0 {
		c := &fleetv1.JobCommit{JobId: "jid", Listed: true}
		for from := int64(0); from < items; from += parts {
			c.Parts = append(c.Parts, &fleetv1.InputPart{From: from, Items: min(parts, items-from), Object: fmt.Sprint("o", from)})
		}
		w.apply(&fleetv1.Command{Op: &fleetv1.Command_JobCommit{JobCommit: c}})
	}
	w.lead()
	return w
}

func (w *world) apply(c *fleetv1.Command) state.Result {
	w.t.Helper()
	w.index++
	c.Time, c.Introduced = timestamppb.New(w.now), state.Introduced(c)
	r, _ := w.store.Apply(w.index, c)
	if c.GetWrite() != nil && len(r.Rejections) > 0 {
		w.t.Fatalf("refused: %v", r.Rejections)
	}
	return r
}

func (w *world) ledger() *fleetv1.JobLedger { return w.store.View().JobLedger("jid") }

// lead begins a leadership: it knows nothing but what is stored.
func (w *world) lead() {
	w.book = newBook(w.now, func() string { w.attempts++; return fmt.Sprint("a", w.attempts) })
	w.learn()
}

func (w *world) learn() {
	w.book.learn(w.store.View().JobByID("jid"), w.ledger(), w.now)
}

// desire has the job run or stop.
func (w *world) desire(to string) {
	job := proto.CloneOf(w.store.View().JobByID("jid"))
	job.Desired.State = to
	w.apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(job.GetMeta().GetRevision(), job)}}}})
	w.learn()
}

func (w *world) start() *task {
	w.made++
	t := &task{id: fmt.Sprint("i", w.made), chunks: map[string]*fleetv1.TaskChunk{}, speed: 1 + w.r.Int64N(40)}
	w.tasks[t.id] = t
	return t
}

// commit is a second of the leader: at most one entry.
func (w *world) commit(unknown bool) {
	w.book.expire(func(id string) bool { return w.tasks[id] == nil && w.r.IntN(2) == 0 }, w.now)
	c := w.book.commit(w.now)
	if c == nil {
		return
	}
	w.commits = append(w.commits, w.now)
	w.losses += len(c.GetLost())
	r := w.apply(&fleetv1.Command{Op: &fleetv1.Command_JobCommit{JobCommit: proto.CloneOf(c)}})
	w.learn()
	if !unknown && len(r.Rejections) > 0 {
		w.book.refused(c)
	}
}

func (w *world) ready() []string {
	var ids []string
	for id := range w.tasks {
		ids = append(ids, id)
	}
	return ids
}

// call is one exchange of a task. Its answer may get lost.
func (w *world) call(t *task, lose bool) {
	req := &fleetv1.ExchangeTaskRequest{InstanceId: t.id, Task: t.name, Written: t.written, Room: 200, Progress: &fleetv1.TaskProgress{Rate: float64(t.speed)}}
	for _, c := range t.chunks {
		req.Chunks = append(req.Chunks, proto.CloneOf(c))
	}
	for _, m := range t.manifests {
		for _, c := range m.GetChunks() {
			if w.gone[c.GetAttempt()] {
				req.Lost = append(req.Lost, c.GetAttempt())
			}
		}
	}
	slices.SortFunc(req.Chunks, func(a, b *fleetv1.TaskChunk) int { return int(a.GetChunk().GetFrom() - b.GetChunk().GetFrom()) })
	resp := w.book.exchange(req, false, w.ready, w.now)
	for a := range w.book.missing { // the leader looks for itself
		if w.book.missing[a] = w.gone[a]; !w.gone[a] {
			delete(w.book.missing, a)
		}
	}
	if lose {
		return
	}
	t.name, t.stop, t.manifests, t.written = resp.GetTask(), resp.GetStop(), resp.GetManifests(), nil
	had := t.chunks
	t.chunks = map[string]*fleetv1.TaskChunk{}
	for _, c := range resp.GetChunks() {
		c = proto.CloneOf(c)
		a := c.GetChunk().GetAttempt()
		switch old := had[a]; {
		case c.GetState() == fleetv1.ChunkRunning && old != nil:
			c.Done = old.GetDone()
			c.GetChunk().To = max(c.GetChunk().GetTo(), c.GetChunk().GetFrom()+c.GetDone()) // what has begun ends here
		case c.GetState() == fleetv1.ChunkPublishing && w.packs[a] == nil:
			w.t.Fatalf("chunk %v is to be published and was never packed", c)
		}
		t.chunks[a] = c
	}
}

// work moves all on that a task has.
func (w *world) work(t *task) {
	budget := t.speed
	for _, a := range w.sorted(t) {
		c := t.chunks[a]
		chunk := c.GetChunk()
		switch c.GetState() {
		case fleetv1.ChunkRunning:
			n := min(budget, chunk.GetTo()-chunk.GetFrom()-c.GetDone())
			c.Done += n
			budget -= n
			if t.stop && c.GetDone() > 0 {
				chunk.To = chunk.GetFrom() + c.GetDone()
			}
			if t.stop && c.GetDone() == 0 {
				delete(t.chunks, a)
				continue
			}
			if chunk.GetFrom()+c.GetDone() == chunk.GetTo() {
				chunk.Failed = w.r.Int64N(c.GetDone() + 1)
				chunk.Successful = c.GetDone() - chunk.Failed
				c.State = fleetv1.ChunkPacked
				w.packs[a] = proto.CloneOf(chunk)
			}
		case fleetv1.ChunkPublishing:
			c.State = fleetv1.ChunkPublished
		}
	}
	for _, m := range t.manifests {
		if slices.ContainsFunc(m.GetChunks(), func(c *fleetv1.Chunk) bool { return w.gone[c.GetAttempt()] }) {
			continue
		}
		if before := w.written[idOf(m)]; before != nil && before.GetVersion() == m.GetVersion() && !equalChunks(before.GetChunks(), m.GetChunks()) {
			w.t.Fatalf("manifest %v is written again with other content: %v", m, before)
		}
		w.written[idOf(m)] = m
		t.written = append(t.written, &fleetv1.Manifest{Task: m.GetTask(), Number: m.GetNumber(), Version: m.GetVersion()})
	}
}

func (w *world) sorted(t *task) []string {
	var keys []string
	for a := range t.chunks {
		keys = append(keys, a)
	}
	slices.Sort(keys)
	return keys
}

func equalChunks(a, b []*fleetv1.Chunk) bool {
	return slices.EqualFunc(a, b, func(x, y *fleetv1.Chunk) bool { return proto.Equal(x, y) })
}

// step is about a second. In a wild one things go wrong.
func (w *world) step(wild bool) {
	chance := func(n int) bool { return wild && w.r.IntN(n) == 0 }
	if len(w.tasks) < 4 && w.r.IntN(2) == 0 {
		w.start()
	}
	ids := w.ready()
	slices.Sort(ids)
	for _, id := range ids {
		t := w.tasks[id]
		switch {
		case chance(40): // it is lost
			delete(w.tasks, id)
			continue
		case chance(20): // cut off for a while: it goes on with what it has
		case chance(10):
			w.call(t, true)
		default:
			w.call(t, false)
		}
		w.work(t)
	}
	if chance(30) { // an older leader of which somebody still has a lease
		if from, items := w.r.Int64N(w.ledger().GetItems()), w.ledger().GetItems(); len(ids) > 0 && w.tasks[ids[0]] != nil {
			w.attempts++
			a := fmt.Sprint("z", w.attempts)
			w.tasks[ids[0]].chunks[a] = &fleetv1.TaskChunk{Chunk: &fleetv1.Chunk{From: from, To: min(items, from+20), Task: "0", Attempt: a}, State: fleetv1.ChunkRunning}
		}
	}
	if chance(50) {
		w.lead()
	}
	w.losePack(chance)
	if chance(60) {
		w.desire(fleetv1.DesiredStopped)
	} else if chance(10) {
		w.desire(fleetv1.DesiredRunning)
	}
	w.now = w.now.Add(time.Second + time.Duration(w.r.IntN(500))*time.Millisecond)
	w.commit(chance(5))
	w.check()
}

// losePack has a pack that somebody needs be gone, or come back.
func (w *world) losePack(chance func(int) bool) {
	if chance(2) {
		for _, a := range slices.Sorted(maps.Keys(w.gone)) {
			delete(w.gone, a)
			break
		}
	}
	all := w.ledger().GetUnsealed()
	for _, m := range w.ledger().GetSealed() {
		all = slices.Concat(all, m.GetChunks())
	}
	if len(all) > 0 && chance(5) {
		w.gone[all[w.r.IntN(len(all))].GetAttempt()] = true
	}
}

// check holds what must be so at every moment.
func (w *world) check() {
	w.t.Helper()
	var last int64
	var held int64
	for i, l := range w.book.leases {
		if l.GetFrom() < last || l.GetFrom() >= l.GetTo() {
			w.t.Fatalf("leases overlap at %d: %v", i, l.Chunk)
		}
		if state.Ranges(w.ledger().GetCommitted()).Overlaps(l.GetFrom(), l.GetTo()) {
			w.t.Fatalf("%v is leased and committed", l.Chunk)
		}
		if l.holder.leases[l.GetAttempt()] != l || !l.packed && w.book.holders[l.holder.instance] != l.holder {
			w.t.Fatalf("%v has no holder", l.Chunk)
		}
		last, held = l.GetTo(), held+l.GetTo()-l.GetFrom()
	}
	if held != w.book.held {
		w.t.Fatalf("%d items are held, and %d counted", held, w.book.held)
	}
	for i := 1; i < len(w.commits); i++ {
		if d := w.commits[i].Sub(w.commits[i-1]); d < time.Second {
			w.t.Fatalf("two commits within %v", d)
		}
	}
}

// TestEveryItemOnce: whatever happens, in the end each item is committed once, and in one written manifest.
func TestEveryItemOnce(t *testing.T) {
	losses := 0
	for seed := range uint64(60) {
		const items = 3000
		w := newWorld(t, seed, items, 700)
		for range 150 {
			w.step(true)
		}
		w.desire(fleetv1.DesiredRunning)
		for range 900 {
			if l := w.ledger(); state.Ranges(l.GetCommitted()).Items() == items && len(l.GetUnsealed()) == 0 && len(l.GetSealed()) == 0 {
				break
			}
			w.step(false)
		}
		w.ended(seed, items)
		losses += w.losses
	}
	if losses == 0 {
		t.Error("no pack was lost")
	}
}

func (w *world) ended(seed uint64, items int64) {
	w.t.Helper()
	l := w.ledger()
	if l.GetSuccessful()+l.GetFailed() != items || len(l.GetSealed())+len(l.GetUnsealed()) > 0 {
		w.t.Fatalf("seed %d: %d items of %d ended, %d chunks unsealed, %d manifests sealed", seed, l.GetSuccessful()+l.GetFailed(), items, len(l.GetUnsealed()), len(l.GetSealed()))
	}
	times := make([]int, items)
	for id, m := range w.written {
		for _, c := range m.GetChunks() {
			pack := w.packs[c.GetAttempt()]
			if pack == nil || pack.GetFrom() != c.GetFrom() || pack.GetTo() != c.GetTo() || pack.GetSuccessful() != c.GetSuccessful() || c.GetTask() != id.task {
				w.t.Fatalf("seed %d: manifest %v has %v, and the pack is of %v", seed, id, c, pack)
			}
			for n := c.GetFrom(); n < c.GetTo(); n++ {
				times[n]++
			}
		}
	}
	for n, k := range times {
		if k != 1 {
			w.t.Fatalf("seed %d: item %d is in %d manifests", seed, n, k)
		}
	}
}

// TestSlowChunkIsShared: who has nothing is given what another has not begun, once that one has given it up.
func TestSlowChunkIsShared(t *testing.T) {
	w := newWorld(t, 1, 1000, 1000)
	slow, fast := w.start(), w.start()
	slow.speed, fast.speed = 1, 99
	w.call(slow, false)
	w.book.holders[slow.id].size = 10_000 // as if it had been fast so far
	w.call(fast, false)
	w.call(slow, false)
	for range 400 {
		w.now = w.now.Add(2 * time.Second)
		w.call(slow, false)
		w.work(slow)
		w.call(fast, false)
		w.work(fast)
		w.commit(false)
		w.check()
		if w.ledger().GetSuccessful()+w.ledger().GetFailed() == 1000 {
			break
		}
	}
	by := map[string]int64{}
	for _, c := range w.packs {
		by[c.GetTask()] += c.GetTo() - c.GetFrom()
	}
	if took := w.now.Sub(noon); took > 2*time.Minute || by[slow.name]+by[fast.name] != 1000 {
		t.Errorf("1000 items took %v: %v", took, by)
	}
}

// TestStuckChunkIsTaken: who calls and does nothing gives up all that it has not begun.
func TestStuckChunkIsTaken(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	stuck, other := w.start(), w.start()
	stuck.speed = 0
	w.call(other, false)
	w.call(stuck, false)
	for range 10 {
		w.now = w.now.Add(2 * time.Second)
		w.call(stuck, false)
		for a, c := range stuck.chunks {
			if c.GetChunk().GetTo() == c.GetChunk().GetFrom() {
				delete(stuck.chunks, a)
			}
		}
		w.call(other, false)
		w.work(other)
		w.commit(false)
		w.check()
	}
	if n := w.ledger().GetSuccessful() + w.ledger().GetFailed(); n != 1 {
		t.Errorf("%d items have ended", n)
	}
}

// TestRefusedChunk: what the ledger doesn't take is leased anew.
func TestRefusedChunk(t *testing.T) {
	w := newWorld(t, 1, 8, 8)
	one := w.start()
	one.speed = 100
	w.call(one, false)
	w.work(one)
	w.call(one, false)
	c := w.book.commit(w.now)
	if len(c.GetChunks()) == 0 || len(w.book.leases) == 0 {
		t.Fatalf("to be committed is %v", c)
	}
	w.book.refused(c)
	if from, _ := w.book.free(); from != c.GetChunks()[0].GetFrom() {
		t.Errorf("free is %d after %v was refused", from, c.GetChunks())
	}
	w.check()
	w.call(one, false)
	for _, tc := range one.chunks {
		if tc.GetState() == fleetv1.ChunkPacked && w.book.chunks[tc.GetChunk().GetAttempt()] != nil {
			t.Errorf("%v is taken for committed", tc)
		}
	}
}

// TestUnsoundReports: what a task can't have is not its.
func TestUnsoundReports(t *testing.T) {
	for name, c := range map[string]*fleetv1.TaskChunk{
		"beyond the input":      {State: fleetv1.ChunkRunning, Chunk: &fleetv1.Chunk{From: 90, To: 101, Task: "0", Attempt: "x"}},
		"before the input":      {State: fleetv1.ChunkRunning, Chunk: &fleetv1.Chunk{From: -1, To: 5, Task: "0", Attempt: "x"}},
		"empty":                 {State: fleetv1.ChunkRunning, Chunk: &fleetv1.Chunk{From: 5, To: 5, Task: "0", Attempt: "x"}},
		"a task with a path":    {State: fleetv1.ChunkRunning, Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "../1", Attempt: "x"}},
		"no attempt":            {State: fleetv1.ChunkRunning, Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "0"}},
		"unaccounted":           {State: fleetv1.ChunkPacked, Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "0", Attempt: "x", Successful: 4}},
		"less than nothing":     {State: fleetv1.ChunkPacked, Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "0", Attempt: "x", Successful: 6, Failed: -1}},
		"published by nobody":   {State: fleetv1.ChunkPublishing, Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "0", Attempt: "x", Successful: 5}},
		"a state of the future": {State: "resting", Chunk: &fleetv1.Chunk{From: 0, To: 5, Task: "0", Attempt: "x"}},
		"nothing":               {},
	} {
		w := newWorld(t, 1, 100, 100)
		one := w.start()
		resp := w.book.exchange(&fleetv1.ExchangeTaskRequest{InstanceId: one.id, Chunks: []*fleetv1.TaskChunk{c}}, false, w.ready, w.now)
		if len(resp.GetChunks()) != 0 || len(w.book.leases) != 0 {
			t.Errorf("%s: it has %v", name, resp.GetChunks())
		}
		w.check()
	}
}

// TestBoundedReports: an agent can't have the leader keep, log or show more than its own program would send.
func TestBoundedReports(t *testing.T) {
	w := newWorld(t, 1, 1000, 1000)
	one := w.start()
	long := strings.Repeat("é", 1<<20)
	var items []*fleetv1.TaskItem
	var chunks []*fleetv1.TaskChunk
	for i := range 2 * mostAdopted {
		items = append(items, &fleetv1.TaskItem{Source: long, Message: long})
		chunks = append(chunks, &fleetv1.TaskChunk{State: fleetv1.ChunkRunning,
			Chunk: &fleetv1.Chunk{From: int64(i), To: int64(i + 1), Task: "0", Attempt: strconv.Itoa(i), Successful: 7}})
	}
	chunks[0].Chunk.Attempt = long
	chunks[1].State, chunks[1].Chunk.Successful = fleetv1.ChunkPacked, 1
	chunks[1].Chunk.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), long))
	w.book.exchange(&fleetv1.ExchangeTaskRequest{InstanceId: one.id, Chunks: chunks, Progress: &fleetv1.TaskProgress{
		Trouble: long, Slow: items, Failing: items, LatencyBuckets: make([]int64, 1<<20), Rate: math.NaN(), Successful: 3, MedianMillis: 4}}, false, w.ready, w.now)

	p := w.book.holders[one.id].progress
	if proto.Size(p) > 64<<10 || p.GetRate() != 0 || p.GetSuccessful() != 3 || p.GetMedianMillis() != 4 {
		t.Errorf("%d bytes are kept, with rate %v, successful %d, median %v", proto.Size(p), p.GetRate(), p.GetSuccessful(), p.GetMedianMillis())
	}
	if n := len(w.book.leases); n != mostAdopted {
		t.Errorf("%d chunks are leased", n)
	}
	if c := w.book.commit(w.now); len(c.GetChunks()) != 1 || c.GetChunks()[0].GetAttempt() != "1" || proto.Size(c) > 200 {
		t.Errorf("%d chunks in %d bytes are committed", len(c.GetChunks()), proto.Size(c))
	}
	w.check()
}

func TestWanted(t *testing.T) {
	w := newWorld(t, 1, 1000, 1000)
	if n := w.book.wanted(); n != 1000 {
		t.Errorf("before the first task %d are wanted", n)
	}
	one := w.start()
	w.call(one, false)
	w.book.holders[one.id].size = 100
	if n := w.book.wanted(); n != 5 {
		t.Errorf("%d tasks are wanted of 1000 items, of which one has 200 at once", n)
	}
	if w = newWorld(t, 1, 0, 1); w.book.wanted() != 0 {
		t.Error("it is known for an input that isn't listed")
	}
}

// TestNewLeaderWaits: nothing is leased before all who may have something have said so, or have been silent for long.
func TestNewLeaderWaits(t *testing.T) {
	w := newWorld(t, 1, 1000, 1000)
	one, two := w.start(), w.start()
	if w.call(one, false); len(one.chunks) != 0 {
		t.Errorf("it leases %v before the other has called", one.chunks)
	}
	w.call(two, false)
	if w.call(one, false); len(one.chunks) == 0 || len(two.chunks) == 0 {
		t.Error("it leases nothing though all have called")
	}
	had := w.sorted(one)
	w.lead()
	w.now = w.now.Add(leaseTime - time.Second)
	if w.call(one, false); !slices.Equal(w.sorted(one), had) {
		t.Errorf("it has %v, and had %v", w.sorted(one), had)
	}
	w.now = w.now.Add(time.Second)
	if three := w.start(); len(w.book.leases) != len(had) {
		t.Errorf("there are %d leases", len(w.book.leases))
	} else if w.call(three, false); len(three.chunks) == 0 {
		t.Error("it leases nothing though the other has been silent for long")
	}
}

func TestLatency(t *testing.T) {
	of := func(n ...int64) *fleetv1.TaskProgress {
		return &fleetv1.TaskProgress{LatencyBuckets: append(n, make([]int64, len(bounds())+1-len(n))...), LatencySumSeconds: float64(n[0])}
	}
	var l latency
	l.add(nil, of(3, 1))
	l.add(of(3, 1), of(5, 1))
	l.add(of(5, 1), of(1)) // its instance began anew
	l.add(of(1), &fleetv1.TaskProgress{LatencyBuckets: []int64{1, 2}})
	l.add(nil, nil)
	if l.buckets[0] != 6 || l.buckets[1] != 1 || l.sum != 6 {
		t.Errorf("the sums are %v, %v", l.buckets, l.sum)
	}
}

// BenchmarkExchange is one call of each of 1,000 tasks that each have two chunks.
func BenchmarkExchange(b *testing.B) {
	const tasks = 1000
	w := newWorld(b, 1, 10_000_000, 10_000)
	for range tasks {
		w.start()
	}
	for _, t := range w.tasks {
		w.call(t, false)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		t := w.tasks[fmt.Sprint("i", 1+i%tasks)]
		for _, c := range t.chunks {
			c.Done = 1
		}
		w.call(t, false)
	}
}
