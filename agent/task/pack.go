package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// prepare reads which items a leased chunk has.
func (d *driver) prepare(c *chunk) {
	var items []batch.Item
	var s *spool
	err := d.patient(c.ctx, always, func() (err error) {
		if s == nil {
			if s, err = newSpool(d.m.cfg.Dir); err != nil {
				return err
			}
		}
		items, err = d.working().items(c.ctx, c.lease.GetFrom(), c.lease.GetTo())
		return err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	c.spool = s
	if err == nil {
		c.items, c.done = items, make([]*ended, len(items))
	}
}

// pack writes the items that have ended into the chunk's pack.
func (d *driver) pack(c *chunk) {
	d.mu.Lock()
	done := c.prefix()
	c.to = c.lease.GetFrom() + int64(len(done)) // no less from now on, and no more
	c.next, c.called = c.to, c.to
	d.mu.Unlock()
	var totals batch.Totals
	err := d.patient(c.ctx, always, func() error {
		w := d.working()
		u, err := w.packURL(c.lease)
		if err != nil {
			return err
		}
		header := batch.PackHeader{Job: w.setup.GetJobId(), Task: c.lease.GetTask(), Attempt: c.lease.GetAttempt(), From: c.lease.GetFrom()}
		totals, err = d.writePack(c, w, u, header, done)
		return err
	})
	if err != nil {
		return // the chunk was taken away
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.lease.To = totals.To
	c.lease.Successful, c.lease.Failed, c.lease.InputBytes, c.lease.OutputBytes = totals.Successful, totals.Failed, totals.InputBytes, totals.OutputBytes
	c.done, c.items, c.state = done, nil, fleetv1.ChunkPacked
}

func (d *driver) writePack(c *chunk, w *work, u storage.URL, header batch.PackHeader, done []*ended) (_ batch.Totals, err error) {
	file, err := newSpool(d.m.cfg.Dir)
	if err != nil {
		return batch.Totals{}, err
	}
	defer file.close()
	p, err := batch.NewPackWriter(file.file, header)
	if err != nil {
		return batch.Totals{}, err
	}
	for _, e := range done {
		if err := p.Write(e.Outcome, c.spool.section(e.result)); err != nil {
			return batch.Totals{}, err
		}
	}
	totals, err := p.Close()
	if err != nil {
		return totals, err
	}
	size, err := file.file.Seek(0, io.SeekEnd)
	if err != nil {
		return totals, err
	}
	return totals, w.store.Write(c.ctx, u, file.file, size)
}

// publish gives the results of a committed chunk their final names.
func (d *driver) publish(c *chunk) {
	if lines, err := d.publishResults(c.ctx, c.lease.GetTask(), c.spool, c.done); err == nil {
		d.publishedNow(c, lines)
	}
}

func (d *driver) publishedNow(c *chunk, lines []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.published[c.lease.GetAttempt()] = lines
	c.state = fleetv1.ChunkPublished
	d.changeLocked()
}

// publishAgain publishes a chunk from its pack: who ran it is gone, or was this node's agent before it was restarted.
func (d *driver) publishAgain(c *chunk) {
	defer d.misses(c.lease, false)
	if lines, err := d.publishPack(c.ctx, c.lease, always); err == nil {
		d.publishedNow(c, lines)
	}
}

// publishPack publishes what a pack holds. When the pack isn't there, the scheduler is told so until misses is called: it may have
// the items run again.
func (d *driver) publishPack(ctx context.Context, chunk *fleetv1.Chunk, mayPass func(error) bool) ([]byte, error) {
	var s *spool
	var done []*ended
	err := d.patient(ctx, mayPass, func() (err error) {
		if s == nil {
			if s, err = newSpool(d.m.cfg.Dir); err != nil {
				return err
			}
		}
		done, err = d.readPack(ctx, chunk, s)
		d.misses(chunk, errors.Is(err, storage.ErrNotFound))
		return err
	})
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return nil, err
	}
	return d.publishResults(ctx, chunk.GetTask(), s, done)
}

// misses notes whether the pack of a chunk isn't there.
func (d *driver) misses(chunk *fleetv1.Chunk, yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if yes && !d.lost[chunk.GetAttempt()] {
		d.tell()
	}
	if delete(d.lost, chunk.GetAttempt()); yes {
		d.lost[chunk.GetAttempt()] = true
	}
}

// readPack copies the results of a chunk from its pack into a spool.
func (d *driver) readPack(ctx context.Context, chunk *fleetv1.Chunk, s *spool) (_ []*ended, err error) {
	w := d.working()
	u, err := w.packURL(chunk)
	if err != nil {
		return nil, err
	}
	body, _, err := w.store.Read(ctx, u, storage.ReadOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	p, err := batch.NewPackReader(body)
	if err != nil {
		return nil, err
	}
	var done []*ended
	for {
		o, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		e := &ended{o, s.reserve(o.Bytes)}
		if _, err := io.Copy(io.NewOffsetWriter(s.file, e.result.at), p.Result()); err != nil {
			return nil, err
		}
		done = append(done, e)
	}
	if h := p.Header(); h.From != chunk.GetFrom() || h.Attempt != chunk.GetAttempt() || p.Totals().To != chunk.GetTo() {
		return nil, fmt.Errorf("%s holds items %d–%d of attempt %s, and not those of its name: somebody has changed it", u, h.From, p.Totals().To, h.Attempt)
	}
	return done, nil
}

// publishResults writes each result under its final name, has them all on the disk, and answers what a manifest says of the items.
func (d *driver) publishResults(ctx context.Context, task string, s *spool, done []*ended) ([]byte, error) {
	var lines []byte
	names := make([]storage.URL, len(done))
	for i, e := range done {
		var err error
		if names[i], err = d.working().resultURL(task, e.Name); err != nil {
			return nil, err
		}
		line := e.ManifestLine(names[i].String())
		lines = line.Append(lines)
	}
	g, writing := errgroup.WithContext(ctx)
	g.SetLimit(publishers)
	for i, e := range done {
		if e.Result == batch.Successful {
			g.Go(func() error {
				return d.patient(writing, always, func() error {
					return d.working().store.WriteUnsynced(writing, names[i], s.section(e.result), e.result.size)
				})
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return lines, d.patient(ctx, always, func() error { w := d.working(); return w.store.Sync(ctx, w.directory) })
}

// emptyDir removes what an agent that was killed has left of its spools.
func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}
