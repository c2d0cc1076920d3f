package jobs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// commitEvery is how much time lies between two commits of a job at least.
const commitEvery = time.Second

// commitTime is when after a commit has begun it should be known what became of it.
const commitTime = 30 * time.Millisecond

// setupMillis is when a task that has just been told what to work by should ask for items.
const setupMillis = 20

// run is one job during one leadership.
type run struct {
	*term
	id     string
	ctx    context.Context
	end    context.CancelFunc
	wakeup chan struct{} // capacity 1

	mu        sync.Mutex // guards the rest
	book      *book
	found     []found       // what the lister waits to see committed, in order
	listing   bool          // a lister is at work
	clearing  bool          // strays are being removed, or have been
	looking   bool          // for packs that are missing
	looked    time.Time     // when that began last
	tidying   bool          // packs are being removed
	tidied    bool          // and have been, or can't be
	overtaken bool          // somebody else has listed something else
	settled   chan struct{} // capacity 1; receives when found is shorter, or overtaken
	committed time.Time     // when the last commit was begun, or made
	failure   string        // to be committed
	trouble   string        // of the lister
	setup     setup
	latency   latency
}

// found is a part of the input that a lister has written, or the end of the input, or both.
type found struct {
	part     *fleetv1.InputPart // nil when nothing but the end was found
	listed   bool
	position string
}

// setup is what tasks work by, and of which version; the parts of the input are counted in the version that tasks see.
type setup struct {
	*fleetv1.TaskSetup
	revision uint64 // of the job
}

func timestampOf(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

func newRun(t *term, id string) *run {
	r := &run{term: t, id: id, wakeup: make(chan struct{}, 1), book: newBook(time.Now(), t.cfg.NewAttempt)}
	r.ctx, r.end = context.WithCancel(t.ctx)
	r.settled = make(chan struct{}, 1)
	view := t.cfg.State.View()
	r.book.learn(view.JobByID(id), view.JobLedger(id), time.Now())
	r.book.strays = mayHaveStrays(view, id)
	return r
}

func (r *run) wake() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// work commits what there is, at most once a second, and has the input listed, until the run ends.
func (r *run) work() {
	var others sync.WaitGroup
	defer others.Wait()
	defer r.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		case <-r.wakeup:
		}
		if r.unlisted() {
			others.Go(r.list)
		}
		if r.clears() {
			others.Go(r.clear)
		}
		if missing := r.looks(); len(missing) > 0 {
			others.Go(func() { r.look(missing) })
		}
		if r.tidies() {
			others.Go(r.tidy)
		}
		if wait := r.untilCommit(time.Now()); wait > 0 {
			timer.Reset(wait)
			continue
		}
		if r.tick() {
			r.wake()
		}
		timer.Reset(commitEvery)
	}
}

// untilCommit is how long it takes until the next commit may be made.
func (r *run) untilCommit(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.untilCommitLocked(now)
}

func (r *run) untilCommitLocked(now time.Time) time.Duration {
	return r.committed.Add(commitEvery).Sub(now)
}

// unlisted says that a lister is needed and there is none. A job that has ended and is started or retried at once may still
// have its run, whose lister is gone.
func (r *run) unlisted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.learn() || r.listing || r.failure != "" || r.book.ledger.GetListed() || r.book.ledger.GetFailure() != "" {
		return false
	}
	r.listing = true
	return true
}

// tick brings the book up to date and commits what there is. It answers whether anything was proposed.
func (r *run) tick() bool {
	c, found := r.next()
	defer r.hooks.call(r.id)
	if c == nil {
		return false
	}
	result, err := r.propose(r.ctx, c)
	if err != nil && r.ctx.Err() == nil {
		r.cfg.Logger.Warn("what tasks have done is not committed yet", "job", r.id, "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed = time.Now()
	if !r.learn() {
		return true
	}
	if found > 0 {
		r.settle(found, err)
	}
	if err == nil && len(result.Rejections) > 0 {
		r.cfg.Logger.Debug("a commit was refused in part", "job", r.id, "detail", result.Rejections[0].Detail)
		r.book.refused(c)
	}
	if c.GetFailure() != "" && r.book.ledger.GetFailure() != "" {
		r.failure = ""
	}
	return true
}

// next is what to commit now, nil for nothing, and how much of it the lister has found.
func (r *run) next() (c *fleetv1.JobCommit, listed int) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.learn() {
		return nil, 0
	}
	view := r.cfg.State.View()
	r.book.expire(func(instance string) bool { return view.Instance(instance) == nil }, now)
	if c = r.book.commit(now); c == nil && (len(r.found) > 0 || r.failure != "") {
		c = &fleetv1.JobCommit{JobId: r.id}
	}
	if c == nil {
		return nil, 0
	}
	r.committed = now
	c.Failure = r.failure
	c.Events = r.lostEvents(c.GetLost(), now)
	for _, f := range r.found {
		if f.part != nil {
			c.Parts = append(c.Parts, f.part)
		}
		c.Listed, c.Position = f.listed, f.position
	}
	return c, len(r.found)
}

// learn takes in what is stored; false when the job is gone.
func (r *run) learn() bool {
	view := r.cfg.State.View()
	job, ledger := view.JobByID(r.id), view.JobLedger(r.id)
	if job == nil || ledger == nil {
		return false
	}
	r.book.learn(job, ledger, time.Now())
	return true
}

// settle tells the lister how it went with the first of what it has found. Of an unknown outcome the ledger tells.
func (r *run) settle(first int, err error) {
	l, last := r.book.ledger, r.found[first-1]
	stands := l.GetListed()
	if last.part != nil {
		stands = slices.ContainsFunc(l.GetParts(), func(p *fleetv1.InputPart) bool { return p.GetObject() == last.part.GetObject() })
	}
	switch {
	case stands:
		r.found = r.found[first:]
	case err == nil:
		r.found, r.overtaken = nil, true
	default:
		return // once more
	}
	select {
	case r.settled <- struct{}{}:
	default:
	}
}

// exchange answers a task.
func (r *run) exchange(view state.ReadView, inst *fleetv1.Instance, req *fleetv1.ExchangeTaskRequest) *fleetv1.ExchangeTaskResponse {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.learn() {
		return &fleetv1.ExchangeTaskResponse{Task: req.GetTask(), Stop: true, NextMillis: 2000}
	}
	if h := r.book.holders[req.GetInstanceId()]; h != nil {
		r.latency.add(h.progress, req.GetProgress())
	} else {
		r.latency.add(nil, req.GetProgress())
	}
	leaving := inst.GetDesired().GetState() != fleetv1.DesiredRunning || !r.ensureSetup(view)
	resp := r.book.exchange(req, leaving, func() []string { return readyOf(view, inst) }, now)
	if resp.Setup = r.setupFor(req.GetSetupVersion(), resp); resp.GetSetup() != nil && len(resp.GetChunks()) == 0 {
		resp.NextMillis = setupMillis
	}
	packed := slices.ContainsFunc(resp.GetChunks(), func(c *fleetv1.TaskChunk) bool { return c.GetState() == fleetv1.ChunkPacked })
	if packed || len(req.GetWritten()) > 0 {
		r.wake()
	}
	if packed && resp.GetNextMillis() <= 1000 { // else many call
		known := max(r.untilCommitLocked(now), 0) + commitTime
		resp.NextMillis = min(resp.GetNextMillis(), int32(known.Milliseconds()))
	}
	return resp
}

// readyOf are the instances that may hold items: those that are ready, of the same service.
func readyOf(view state.ReadView, of *fleetv1.Instance) []string {
	var ids []string
	for _, inst := range view.InstancesOfService(of.GetSpec().GetServiceId()) {
		if inst.GetObserved().GetReady() && inst.GetSpec().GetGang().GetRank() == 0 {
			ids = append(ids, inst.GetMeta().GetId())
		}
	}
	return ids
}

// setupFor is what a task works by, unless it has it: the same, with all parts of the input that it needs.
func (r *run) setupFor(has string, resp *fleetv1.ExchangeTaskResponse) *fleetv1.TaskSetup {
	if r.setup.TaskSetup == nil {
		return nil
	}
	parts := r.book.ledger.GetParts()
	_, counted, _ := strings.Cut(has, ".")
	counted, _, _ = strings.Cut(counted, ".")
	if n, err := strconv.Atoi(counted); err == nil && n >= 0 && n <= len(parts) && has == r.versionWith(parts[:n]) && covers(parts[:n], resp) {
		return nil
	}
	return &fleetv1.TaskSetup{Version: r.versionWith(parts), JobId: r.id, JobName: r.setup.GetJobName(), Spec: r.setup.GetSpec(),
		Route: r.setup.GetRoute(), Storage: r.setup.GetStorage(), Directory: r.setup.GetDirectory(), Parts: parts}
}

// versionWith is the version of the setup with these parts of the input. The last one stands for those before it, which a ledger that
// was restored from a backup may have listed otherwise since.
func (r *run) versionWith(parts []*fleetv1.InputPart) string {
	last := ""
	if len(parts) > 0 {
		last = parts[len(parts)-1].GetObject()
	}
	return fmt.Sprintf("%s.%d.%s", r.setup.GetVersion(), len(parts), last)
}

// covers says whether parts of the input have all that an answer is about.
func covers(parts []*fleetv1.InputPart, resp *fleetv1.ExchangeTaskResponse) bool {
	var end int64
	if len(parts) > 0 {
		end = parts[len(parts)-1].GetFrom() + parts[len(parts)-1].GetItems()
	}
	for _, c := range resp.GetChunks() {
		if c.GetChunk().GetTo() > end {
			return false
		}
	}
	for _, m := range resp.GetManifests() {
		for _, c := range m.GetChunks() {
			if c.GetTo() > end {
				return false
			}
		}
	}
	return true
}

// ensureSetup makes what tasks work by when the job, or a key that its project has for a storage, has changed. It answers
// whether there is one: nothing is leased without.
func (r *run) ensureSetup(view state.ReadView) bool {
	job := r.book.job
	revision := job.GetMeta().GetRevision()
	for _, k := range view.StorageKeys(job.GetMeta().GetProject()) {
		revision += k.GetMeta().GetRevision()
	}
	if r.setup.TaskSetup != nil && r.setup.revision == revision {
		return true
	}
	spec := job.GetSpec()
	access, err := r.cfg.Access(job.GetMeta().GetProject())
	if err != nil {
		r.cfg.Logger.Warn("tasks can't be told how to reach their storage", "job", r.id, "error", err)
		r.trouble = err.Error()
		return false
	}
	s := &fleetv1.TaskSetup{JobId: r.id, JobName: job.GetMeta().GetName(), Spec: spec, Storage: access, Directory: directoryOf(job)}
	for _, route := range view.Model(job.GetMeta().GetProject(), spec.GetModel(), spec.GetModelVersion()).GetSpec().GetApis() {
		if cmp.Or(route.GetUrl(), "/") == cmp.Or(spec.GetRequestPath(), "/") {
			s.Route = route
			break
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		r.trouble = err.Error()
		return false
	}
	sum := sha256.Sum256(data)
	s.Version = hex.EncodeToString(sum[:8])
	r.setup = setup{s, revision}
	return true
}

// directoryOf is where what belongs to a job lies beside its output.
func directoryOf(job *fleetv1.Job) string {
	return strings.TrimSuffix(job.GetSpec().GetOutput(), "/") + "/" + batch.OwnFolder + job.GetMeta().GetId() + "/"
}

// troubles is one line about what keeps the job from going on.
func (r *run) troubles() string {
	if r.trouble != "" {
		return r.trouble
	}
	counts := map[string]int{}
	most := ""
	for _, h := range r.book.holders {
		if t := h.progress.GetTrouble(); t != "" {
			if counts[t]++; counts[t] > counts[most] || counts[t] == counts[most] && t < most {
				most = t
			}
		}
	}
	return most
}

// progress is what is known of the job.
func (r *run) progress(view state.ReadView) (*fleetv1.JobProgress, []*fleetv1.JobTask) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.book.ledger
	p := &fleetv1.JobProgress{Items: l.GetItems() - l.GetAgain(), Listed: l.GetListed(), Successful: l.GetSuccessful(), Failed: l.GetFailed(),
		Left: r.book.left(), InHand: r.book.held, InputBytes: l.GetInputBytes(), OutputBytes: l.GetOutputBytes(), Manifests: manifestsOf(l)}
	var tasks []*fleetv1.JobTask
	seen := map[string]bool{}
	for _, h := range r.book.holders {
		p.Rate += h.progress.GetRate()
		inst := view.Instance(h.instance)
		t := &fleetv1.JobTask{Task: h.task, Instance: inst.GetMeta().GetName(), Node: inst.GetSpec().GetNode(), State: inst.GetObserved().GetState(),
			Progress: h.progress, HeardTime: timestampOf(h.heard)}
		for _, lease := range h.leases {
			t.ItemsInHand += lease.GetTo() - lease.GetFrom()
		}
		tasks = append(tasks, t)
		seen[h.task] = true
	}
	for _, t := range l.GetTasks() {
		if !seen[t.GetTask()] {
			tasks = append(tasks, &fleetv1.JobTask{Task: t.GetTask()})
		}
	}
	slices.SortFunc(tasks, func(a, b *fleetv1.JobTask) int { return compareTasks(a.GetTask(), b.GetTask()) })
	switch {
	case p.GetListed() && p.GetLeft() == 0:
		p.Rate = 0
	case p.GetListed() && p.GetRate() > 0:
		p.LeftSeconds = int64(float64(p.GetLeft())/p.GetRate()) + 1
	}
	return p, tasks
}

// manifestsOf are the names of the manifests that stand.
func manifestsOf(l *fleetv1.JobLedger) []string {
	missing := map[manifestID]bool{}
	for _, m := range l.GetSealed() {
		missing[idOf(m)] = true
	}
	var names []string
	for _, t := range l.GetTasks() {
		for n := range t.GetManifests() {
			if !missing[manifestID{t.GetTask(), n}] {
				names = append(names, batch.ManifestName(t.GetTask(), n))
			}
		}
	}
	return names
}
