package jobs

import (
	"maps"
	"slices"
	"sort"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of leases.
const (
	leaseTime  = 15 * time.Second // without a word from a task until its items move on
	running    = 2                // chunks that a task is given at once
	firstItems = 8                // of the first chunk of a task
	mostItems  = 2000             // of a chunk
	growth     = 16               // at most, from a chunk to the next
	chunkTime  = 4 * time.Second  // that a chunk should take
	takeAfter  = 2 * time.Second  // what a slow task has still to do for longer is given to one that has nothing
	mostTasks  = 10_000
)

// book is what one leadership knows of one job: who holds which items, beside what the ledger has. It does nothing by
// itself, and knows the time that it is told. Losing it costs items that are run twice, never one that counts twice.
type book struct {
	job    *fleetv1.Job
	ledger *fleetv1.JobLedger
	// chunks are the committed ones that are in no written manifest, by attempt.
	chunks  map[string]*fleetv1.Chunk
	holders map[string]*holder // by instance
	leases  []*lease           // in the order of their items; they overlap neither each other nor what is committed
	held    int64              // items of leases
	low     int64              // no item below it is free
	began   time.Time
	open    bool // every task that may hold something has had its say
	strays  bool // manifests may stand that the ledger doesn't have: no more are made before they are gone

	written map[manifestID]int32   // and not yet committed: of which version
	writers map[manifestID]*holder // who was told to write it
	oldest  map[string]time.Time   // since when a task has something in no manifest
	pause   time.Duration          // before that is put into one
	missing map[string]bool        // by attempt: packs that a task doesn't find, or that are known to be gone, which is true

	lost       int64 // leases of tasks that fell silent
	newAttempt func() string
}

type manifestID struct {
	task   string
	number int32
}

func idOf(m *fleetv1.Manifest) manifestID { return manifestID{m.GetTask(), m.GetNumber()} }

// holder is an instance that has called.
type holder struct {
	instance, task string
	heard          time.Time
	leaving        bool
	leases         map[string]*lease // by attempt
	manifests      []*fleetv1.Manifest
	progress       *fleetv1.TaskProgress
	size           int64 // of its next chunk
}

// lease is a chunk in somebody's hands. It may be shortened; the chunk itself is never written to.
type lease struct {
	*fleetv1.Chunk
	holder *holder
	packed bool
	done   int64 // items that have ended
	began  time.Time
	// It is to end at ask, for the sake of another: an answer tells the task, and its next call says where it ends.
	asked, told bool
	ask         int64
}

func newBook(now time.Time, newAttempt func() string) *book {
	return &book{holders: map[string]*holder{}, began: now, written: map[manifestID]int32{}, missing: map[string]bool{}, writers: map[manifestID]*holder{},
		oldest: map[string]time.Time{}, pause: firstPause, newAttempt: newAttempt}
}

// learn takes in what is stored. Leases of what is committed end.
func (b *book) learn(job *fleetv1.Job, ledger *fleetv1.JobLedger, now time.Time) {
	b.job = job
	if ledger == b.ledger {
		return
	}
	if ledger.GetItems() < b.ledger.GetItems() {
		b.low = 0
	}
	before := b.chunks
	b.ledger, b.chunks = ledger, map[string]*fleetv1.Chunk{}
	for _, c := range ledger.GetUnsealed() {
		b.chunks[c.GetAttempt()] = c
	}
	unwritten := map[manifestID]int32{}
	for _, m := range ledger.GetSealed() {
		unwritten[idOf(m)] = m.GetVersion()
		for _, c := range m.GetChunks() {
			b.chunks[c.GetAttempt()] = c
		}
	}
	for id, version := range b.written {
		if now, ok := unwritten[id]; !ok || now != version {
			delete(b.written, id)
		}
	}
	committed := state.Ranges(ledger.GetCommitted())
	for attempt, c := range before {
		if b.chunks[attempt] == nil && !committed.Overlaps(c.GetFrom(), c.GetTo()) { // its pack was lost
			b.low = min(b.low, c.GetFrom())
		}
	}
	maps.DeleteFunc(b.missing, func(attempt string, _ bool) bool { return b.chunks[attempt] == nil })
	for _, l := range slices.Clone(b.leases) {
		if committed.Overlaps(l.GetFrom(), l.GetTo()) {
			b.drop(l)
		}
	}
	b.low = min(b.low, ledger.GetItems())
	b.age(now)
	b.assign()
}

// stopping says that nothing new is begun.
func (b *book) stopping() bool {
	return b.job.GetDesired().GetState() != fleetv1.DesiredRunning || b.ledger.GetFailure() != ""
}

// left is how many items are not committed.
func (b *book) left() int64 {
	return b.ledger.GetItems() - state.Ranges(b.ledger.GetCommitted()).Items()
}

// exchange takes in what a task has in hand and answers what it should have. ready are the instances that may hold
// something; it is asked only while that matters.
func (b *book) exchange(req *fleetv1.ExchangeTaskRequest, leaving bool, ready func() []string, now time.Time) *fleetv1.ExchangeTaskResponse {
	h := b.hear(req, leaving, now)
	resp := &fleetv1.ExchangeTaskResponse{Task: h.task, Stop: b.stopping()}
	named, yields := map[string]bool{}, false
	for _, l := range h.leases {
		yields = yields || l.told // another is to have what it gives up
	}
	for _, c := range req.GetChunks() {
		if a := c.GetChunk().GetAttempt(); a != "" && !named[a] {
			named[a] = true
			if answer := b.report(h, c, now); answer != nil {
				resp.Chunks = append(resp.Chunks, answer)
			}
		}
	}
	for attempt, l := range h.leases {
		if !named[attempt] && !l.packed { // what is packed stays, though the agent has begun anew since
			b.drop(l)
		}
	}
	for _, m := range req.GetWritten() {
		if slices.ContainsFunc(b.ledger.GetSealed(), func(s *fleetv1.Manifest) bool { return idOf(s) == idOf(m) && s.GetVersion() == m.GetVersion() }) {
			b.written[idOf(m)] = m.GetVersion()
		}
	}
	for _, attempt := range req.GetLost() {
		if b.chunks[attempt] != nil && !b.missing[attempt] {
			b.missing[attempt] = false
		}
	}
	for _, m := range h.manifests {
		if _, written := b.written[idOf(m)]; !written {
			resp.Manifests = append(resp.Manifests, m)
		}
	}
	if !b.open {
		b.open = now.Sub(b.began) >= leaseTime || !slices.ContainsFunc(ready(), func(id string) bool { return b.holders[id] == nil })
	}
	if b.open && !resp.Stop && !h.leaving && !yields {
		resp.Chunks = append(resp.Chunks, b.lend(h, req.GetRoom(), now)...)
	}
	resp.NextMillis = b.next(h)
	return resp
}

// next is when a task should call again: sooner when it has nothing to do, later when many call.
func (b *book) next(h *holder) int32 {
	millis := max(1000, len(b.holders)/2)
	if len(h.leases) == 0 && !b.stopping() {
		millis /= 2
	}
	return int32(millis)
}

// hear notes that an instance has called, and names its task.
func (b *book) hear(req *fleetv1.ExchangeTaskRequest, leaving bool, now time.Time) *holder {
	h := b.holders[req.GetInstanceId()]
	if h == nil {
		h = &holder{instance: req.GetInstanceId(), leases: map[string]*lease{}, task: b.name(req.GetTask()), size: firstItems}
		b.holders[h.instance] = h
		defer b.assign()
	}
	h.heard, h.progress = now, bounded(req.GetProgress())
	h.leaving = leaving || req.GetLeaving()
	return h
}

// name is that of a task: the one that it has had, or the lowest number that nobody has now.
func (b *book) name(had string) string {
	taken := map[string]bool{}
	for _, h := range b.holders {
		taken[h.task] = true
	}
	if isTask(had) && !taken[had] {
		return had
	}
	for n := 0; ; n++ {
		if s := strconv.Itoa(n); !taken[s] {
			return s
		}
	}
}

// isTask says whether a task may be called so: files are.
func isTask(name string) bool {
	n, err := strconv.ParseUint(name, 10, 31)
	return err == nil && n < 2*mostTasks && strconv.FormatUint(n, 10) == name
}

// report takes in one chunk that a task has, and answers what is to become of it; nil when it is to be given up.
func (b *book) report(h *holder, t *fleetv1.TaskChunk, now time.Time) *fleetv1.TaskChunk {
	c := t.GetChunk()
	if committed := b.chunks[c.GetAttempt()]; committed != nil {
		if t.GetState() == fleetv1.ChunkPublished {
			return nil
		}
		return &fleetv1.TaskChunk{Chunk: committed, State: fleetv1.ChunkPublishing}
	}
	if t.GetState() != fleetv1.ChunkRunning && t.GetState() != fleetv1.ChunkPacked {
		return nil // its manifest has been written
	}
	l := h.leases[c.GetAttempt()]
	if l == nil {
		if l = b.adopt(h, c, now); l == nil {
			return nil
		}
	}
	if c.GetFrom() != l.GetFrom() || c.GetTo() <= c.GetFrom() {
		b.drop(l)
		return nil
	}
	switch {
	case l.packed:
	case t.GetState() == fleetv1.ChunkPacked:
		if !sound(c) {
			b.drop(l)
			return nil
		}
		h.grow(l, c, now)
		b.end(l, min(c.GetTo(), l.GetTo()))
		if l.GetTo() != c.GetTo() { // it had been asked to end earlier, and others may have the rest
			b.drop(l)
			return nil
		}
		l.Chunk, l.packed, l.asked = packedOf(l, c), true, false
	default:
		l.done = max(0, t.GetDone())
		b.end(l, min(c.GetTo(), l.GetTo()))
		if l.told {
			l.asked, l.told = false, false
		}
		l.told = l.asked
	}
	return l.answer()
}

func (l *lease) answer() *fleetv1.TaskChunk {
	word, c := fleetv1.ChunkRunning, l.Chunk
	switch {
	case l.packed:
		word = fleetv1.ChunkPacked
	case l.asked:
		c = proto.CloneOf(c)
		c.To = l.ask
	}
	return &fleetv1.TaskChunk{Chunk: c, State: word}
}

// sound says whether a packed chunk accounts for its items.
func sound(c *fleetv1.Chunk) bool {
	return c.GetSuccessful() >= 0 && c.GetFailed() >= 0 && c.GetInputBytes() >= 0 && c.GetOutputBytes() >= 0 && c.GetSuccessful()+c.GetFailed() == c.GetTo()-c.GetFrom()
}

// grow chooses the size of the next chunk by how long one took that wasn't cut short.
func (h *holder) grow(l *lease, c *fleetv1.Chunk, now time.Time) {
	took, items := now.Sub(l.began), c.GetTo()-c.GetFrom()
	if l.asked || c.GetTo() != l.GetTo() || items < h.size/2 && took < chunkTime {
		return
	}
	factor := min(growth, max(1.0/growth, float64(chunkTime)/float64(max(took, time.Millisecond))))
	h.size = min(mostItems, max(1, int64(float64(items)*factor)))
}

// adopt leases to a task what it says that an earlier leader has leased to it, unless that is in the way.
func (b *book) adopt(h *holder, c *fleetv1.Chunk, now time.Time) *lease {
	if len(h.leases) >= mostAdopted || len(c.GetAttempt()) > mostAttempt ||
		c.GetFrom() < 0 || c.GetFrom() >= c.GetTo() || c.GetTo() > b.ledger.GetItems() || !isTask(c.GetTask()) ||
		state.Ranges(b.ledger.GetCommitted()).Overlaps(c.GetFrom(), c.GetTo()) {
		return nil
	}
	if i := b.after(c.GetFrom()); i < len(b.leases) && b.leases[i].GetFrom() < c.GetTo() {
		l := b.leases[i]
		if l.GetAttempt() != c.GetAttempt() || b.holders[l.holder.instance] == l.holder {
			return nil
		}
		l.holder, h.leases[l.GetAttempt()] = h, l // it was silent for a while
		return l
	}
	return b.add(h, &fleetv1.Chunk{From: c.GetFrom(), To: c.GetTo(), Task: c.GetTask(), Attempt: c.GetAttempt()}, now)
}

// after is the place of the first lease that ends behind the item.
func (b *book) after(item int64) int {
	return sort.Search(len(b.leases), func(i int) bool { return b.leases[i].GetTo() > item })
}

func (b *book) add(h *holder, c *fleetv1.Chunk, now time.Time) *lease {
	l := &lease{Chunk: c, holder: h, began: now}
	h.leases[c.GetAttempt()] = l
	b.leases = slices.Insert(b.leases, b.after(c.GetFrom()), l)
	b.held += c.GetTo() - c.GetFrom()
	return l
}

// drop ends a lease; what isn't committed of it is free.
func (b *book) drop(l *lease) {
	if b.holders[l.holder.instance] == l.holder {
		delete(l.holder.leases, l.GetAttempt())
	}
	i := b.after(l.GetFrom())
	b.leases = slices.Delete(b.leases, i, i+1)
	b.held -= l.GetTo() - l.GetFrom()
	b.low = min(b.low, l.GetFrom())
}

// end has a lease end earlier; the rest is free.
func (b *book) end(l *lease, to int64) {
	if to >= l.GetTo() {
		return
	}
	b.held -= l.GetTo() - to
	b.low = min(b.low, to)
	l.Chunk = proto.CloneOf(l.Chunk)
	l.To = to
}

// expire ends what is held by instances that have fallen silent, or are gone. What they have packed needs them no more: it
// is committed all the same.
func (b *book) expire(gone func(instance string) bool, now time.Time) {
	for id, h := range b.holders {
		silent := now.Sub(h.heard) >= leaseTime
		if !silent && !gone(id) {
			continue
		}
		for _, l := range h.leases {
			if !l.packed {
				b.lost++
				b.drop(l)
			}
		}
		delete(b.holders, id)
	}
	b.assign()
}
