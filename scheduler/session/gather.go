package session

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Bounds of the entries that reports are committed in: bytes of one, and how many are on their way at once.
const (
	maxReportBytes  = 1 << 20
	reportsUnderway = 2
)

// gather commits the reports of all nodes. A report that comes alone is proposed at once; while entries are on
// their way those that come share the next one.
type gather struct {
	slots chan struct{} // one for each entry on its way

	mu   sync.Mutex
	open *batch // that is still to be proposed, and takes more
}

// batch is one entry. What it has become is known when done is closed.
type batch struct {
	reports []*fleetv1.Report
	alive   []context.Context // of the reports' sessions
	bytes   int
	done    chan struct{}
	err     error
}

func (g *gather) init() { g.slots = make(chan struct{}, reportsUnderway) }

// add puts a report into the open batch; first says that the batch is new, and that the caller must see to its
// being proposed.
func (g *gather) add(ctx context.Context, r *fleetv1.Report) (b *batch, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if first = g.open == nil; first {
		g.open = &batch{done: make(chan struct{})}
	}
	b = g.open
	b.reports, b.alive, b.bytes = append(b.reports, r), append(b.alive, ctx), b.bytes+proto.Size(r)
	if b.bytes >= maxReportBytes {
		g.open = nil
	}
	return b, first
}

// shut lets nobody join the batch any more.
func (g *gather) shut(b *batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == b {
		g.open = nil
	}
}

// commitReport answers when the report is committed, or nobody knows whether it is. What the store would drop is
// dropped. After ctx has ended it is not proposed any more.
func (h *Hub) commitReport(ctx context.Context, r *fleetv1.Report) error {
	b, first := h.gather.add(ctx, r)
	if first && !h.work(func(t *term) { h.commitBatch(t.ctx, b) }) {
		h.gather.shut(b)
		b.err = h.notLeader()
		close(b.done)
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work runs f in a goroutine of the leadership, or answers false when there is none.
func (h *Hub) work(f func(*term)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.term
	if t == nil {
		return false
	}
	t.work.Go(func() { f(t) })
	return true
}

// commitBatch proposes the batch as soon as there is room for it. Its context is the leadership's: that one of the
// nodes has gone doesn't concern the others.
func (h *Hub) commitBatch(ctx context.Context, b *batch) {
	defer close(b.done)
	select {
	case h.gather.slots <- struct{}{}:
		defer func() { <-h.gather.slots }()
	case <-ctx.Done():
		h.gather.shut(b)
		b.err = ctx.Err()
		return
	}
	h.gather.shut(b)
	b.dropEnded()
	if len(b.reports) == 0 {
		return // nobody waits
	}
	caller, cmd := "agents", &fleetv1.Command{Op: &fleetv1.Command_Reports{Reports: &fleetv1.Reports{Reports: b.reports}}}
	if len(b.reports) == 1 {
		caller, cmd = "agent/"+b.reports[0].GetNode(), &fleetv1.Command{Op: &fleetv1.Command_Report{Report: b.reports[0]}}
	}
	result, err := h.propose(ctx, caller, cmd)
	b.err = err
	for _, r := range result.Rejections {
		h.cfg.Logger.Warn("reports refused", "nodes", len(b.reports), "for example", b.reports[0].GetNode(), "reason", r.Reason, "detail", r.Detail)
	}
}

// dropEnded leaves out what comes from sessions that have ended: the node may have been lost, and have returned, since.
// The batch is shut.
func (b *batch) dropEnded() {
	kept := b.reports[:0:0]
	for i, r := range b.reports {
		if b.alive[i].Err() == nil {
			kept = append(kept, r)
		}
	}
	b.reports = kept
}
