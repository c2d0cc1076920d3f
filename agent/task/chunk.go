package task

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// chunk is a range of items in the hands of this task. The driver's lock guards it.
type chunk struct {
	lease *fleetv1.Chunk // as the scheduler has named it, and with the pack's totals once there is one
	state string
	// from ≤ n < called may have been sent to the container, n < next have been begun, n < to are to be.
	called, next, to int64
	items            []batch.Item // nil until they are read
	done             []*ended     // by number, from lease.from on; nil for those that haven't ended
	count            int64        // of done
	active           int          // items that run
	busy             bool         // a goroutine prepares, packs or publishes it
	dropped          bool         // the task has it no more
	spool            *spool

	ctx    context.Context //nolint:containedctx // of all that works on it
	cancel context.CancelFunc
	// Ends what runs its items.
	itemCtx context.Context //nolint:containedctx // of its items
	giveUp  context.CancelFunc
}

func newChunk(ctx context.Context, lease *fleetv1.Chunk, state string) *chunk {
	c := &chunk{lease: proto.CloneOf(lease), state: state, called: lease.GetFrom(), next: lease.GetFrom(), to: lease.GetTo()}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.itemCtx, c.giveUp = context.WithCancel(c.ctx)
	return c
}

// tell answers the chunk as the scheduler is told of it.
func (c *chunk) tell() *fleetv1.TaskChunk {
	out := &fleetv1.TaskChunk{Chunk: proto.CloneOf(c.lease), State: c.state, Done: c.count}
	if c.state == fleetv1.ChunkRunning {
		out.Chunk.To = c.to
	}
	return out
}

// closeUnused closes the spool of a chunk that was dropped, when the last one who used it has gone.
func (c *chunk) closeUnused() {
	if c.dropped && !c.busy && c.active == 0 && c.spool != nil {
		c.spool.close()
	}
}

// cut gives back all items from a number on that haven't been sent to the container.
func (c *chunk) cut(to int64) {
	if c.state == fleetv1.ChunkRunning && to < c.to {
		c.to = max(to, c.called)
		c.next = min(c.next, c.to)
	}
}

// cutHere gives back all items from a number on, whatever has become of them.
func (c *chunk) cutHere(to int64) {
	c.called = min(c.called, to)
	c.cut(to)
}

// prefix answers the items that have ended before the first one that hasn't.
func (c *chunk) prefix() []*ended {
	done := c.done[:min(int64(len(c.done)), c.to-c.lease.GetFrom())]
	if i := slices.Index(done, nil); i >= 0 {
		return done[:i]
	}
	return done
}

// take brings what the task has in hand in line with what the scheduler says it should have. req is what it answers.
func (d *driver) take(req *fleetv1.ExchangeTaskRequest, resp *fleetv1.ExchangeTaskResponse) {
	d.setUp(resp.GetSetup())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.task, d.stopped = resp.GetTask(), resp.GetStop()
	named := map[string]bool{}
	for _, tc := range resp.GetChunks() {
		named[tc.GetChunk().GetAttempt()] = true
		d.takeChunkLocked(tc)
	}
	told := map[string]bool{}
	for _, tc := range req.GetChunks() {
		told[tc.GetChunk().GetAttempt()] = true
	}
	for _, c := range slices.Clone(d.chunks) {
		if attempt := c.lease.GetAttempt(); told[attempt] && !named[attempt] && (c.state != fleetv1.ChunkPublishing || d.lost[attempt]) {
			d.dropLocked(c)
		}
	}
	d.takeManifestsLocked(resp.GetManifests())
	if d.stopped || d.leaving != nil {
		d.cutLocked()
	}
	d.feedLocked()
}

func (d *driver) takeChunkLocked(tc *fleetv1.TaskChunk) {
	lease, state := tc.GetChunk(), tc.GetState()
	i := slices.IndexFunc(d.chunks, func(c *chunk) bool { return c.lease.GetAttempt() == lease.GetAttempt() })
	switch {
	case i < 0 && d.work == nil:
	case i < 0 && (state == fleetv1.ChunkRunning || state == fleetv1.ChunkPublishing) && lease.GetFrom() < lease.GetTo():
		c := newChunk(d.ctx, lease, state)
		at, _ := slices.BinarySearchFunc(d.chunks, lease.GetFrom(), func(c *chunk, from int64) int { return int(c.lease.GetFrom() - from) })
		d.chunks = slices.Insert(d.chunks, at, c)
		if state == fleetv1.ChunkRunning {
			d.beginLocked(c, d.prepare)
		} else {
			d.beginLocked(c, d.publishAgain)
		}
	case i < 0:
	case state == fleetv1.ChunkPublishing && d.chunks[i].state == fleetv1.ChunkPacked:
		d.chunks[i].state, d.chunks[i].lease.Task = fleetv1.ChunkPublishing, lease.GetTask()
		d.beginLocked(d.chunks[i], d.publish)
	case state == fleetv1.ChunkRunning:
		d.chunks[i].cut(lease.GetTo())
		d.giveBackLocked()
	}
}

// beginLocked has a goroutine of the chunk do something; it's the only one that does.
func (d *driver) beginLocked(c *chunk, do func(c *chunk)) {
	c.busy = true
	d.wg.Go(func() {
		do(c)
		d.mu.Lock()
		defer d.mu.Unlock()
		c.busy = false
		c.closeUnused()
		d.feedLocked()
		d.tell()
	})
}

// dropLocked forgets a chunk. Its spool is closed when the last one who uses it has gone.
func (d *driver) dropLocked(c *chunk) {
	c.cancel()
	c.dropped = true
	d.chunks = slices.DeleteFunc(d.chunks, func(o *chunk) bool { return o == c })
	d.giveBackLocked()
	d.changeLocked()
	c.closeUnused()
}

// cutLocked gives back all items that haven't been sent to the container.
func (d *driver) cutLocked() {
	for _, c := range d.chunks {
		c.cut(c.called)
	}
	d.giveBackLocked()
}

// feedLocked begins as many items as there may be, and packs the chunks that have ended.
func (d *driver) feedLocked() {
	for _, c := range slices.Clone(d.chunks) {
		for c.state == fleetv1.ChunkRunning && c.items != nil && c.next < c.to && d.address != "" && d.active < d.pace.limit+ahead {
			item := c.items[c.next-c.lease.GetFrom()]
			c.next++
			c.active++
			d.active++
			d.running[item.N] = begun{storage.Unsigned(item.Source), time.Now()}
			d.wg.Go(func() { d.runItem(c, item) })
		}
		if c.state != fleetv1.ChunkRunning || c.busy || c.active > 0 || c.next < c.to {
			continue
		}
		if len(c.prefix()) == 0 { // nothing of it has ended
			d.dropLocked(c)
			d.tell()
		} else {
			d.beginLocked(c, d.pack)
		}
	}
	d.grantLocked()
}
