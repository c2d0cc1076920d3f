package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drover-fleet/drover/batch"
	"github.com/drover-fleet/drover/storage"
)

// deniedFor is how long an input that may not be read is tried again: a policy may just be changed.
const deniedFor = 2 * time.Minute

// attempts counts the requests of an item.
type attempts struct{ n atomic.Int64 }

func (a *attempts) add(d *driver) {
	if a.n.Add(1) > 1 {
		d.mu.Lock()
		d.tally.retries++
		d.mu.Unlock()
	}
}

// runItem runs one item to its end.
func (d *driver) runItem(c *chunk, item batch.Item) {
	began := time.Now()
	o := batch.Outcome{N: item.N, Source: storage.Unsigned(item.Source), Name: item.Name, Result: batch.Failed}
	w := d.working()
	result, fail, err := d.outcome(c, w, item, &o)
	o.Millis = time.Since(began).Milliseconds()
	switch {
	case err != nil:
	case fail != nil:
		o.Message, o.Fault, result = fail.message, fail.fault, extent{}
	default:
		o.Result, o.Bytes = batch.Successful, result.size
	}
	if fail != nil && fail.crashed {
		d.cutAfter(c, item.N)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.active--
	d.active--
	delete(d.running, item.N)
	if err == nil {
		c.done[item.N-c.lease.GetFrom()] = &ended{o, result}
		c.count++
		d.tally.item(time.Now(), o.Source, o.Message, time.Since(began), o.InputBytes, o.Bytes)
		if c.spool.size.Load() >= maxPack {
			c.cut(c.called)
			d.giveBackLocked()
		}
	}
	c.closeUnused()
	d.feedLocked()
}

// working answers by which setup is worked.
func (d *driver) working() *work {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.work
}

// outcome answers the item's result, or why it has none. An error says that it hasn't ended.
func (d *driver) outcome(c *chunk, w *work, item batch.Item, o *batch.Outcome) (extent, *failure, error) {
	if item.Error != "" {
		return extent{}, &failure{fault: batch.ItemFault, message: item.Error}, nil
	}
	source, err := storage.ParseURL(item.Source)
	if err != nil {
		return extent{}, &failure{fault: batch.ItemFault, message: err.Error()}, nil
	}
	format, err := w.form.formatOf(source)
	if err != nil {
		return extent{}, &failure{fault: batch.ItemFault, message: err.Error()}, nil
	}
	if err := batch.CheckSize(format, item.Source, item.Size); err != nil {
		return extent{}, &failure{fault: batch.ItemFault, message: err.Error()}, nil
	}
	in, fail, err := d.input(c.itemCtx, source, item, batch.SizeLimit(format, item.Source))
	if fail != nil || err != nil {
		return extent{}, fail, err
	}
	defer in.free()
	o.InputBytes = in.Size()
	var count attempts
	defer func() { o.Attempts = int(count.n.Load()) }()
	if byRow(format) {
		return d.byRow(c, w, format, item, in.SectionReader, &count)
	}
	return d.sendAndKeep(c.itemCtx, c, w, key{item: item.N}, w.form.whole(format, source, in), &count)
}

// sendAndKeep sends a request and keeps its result in the spool.
func (d *driver) sendAndKeep(ctx context.Context, c *chunk, w *work, k key, r *request, count *attempts) (extent, *failure, error) {
	if r.fail != nil {
		return extent{}, &failure{fault: batch.ItemFault, message: r.fail.Error()}, nil
	}
	out, fail, err := d.send(ctx, c, w, k, r, count)
	if fail != nil || err != nil {
		return extent{}, fail, err
	}
	defer out.free()
	e := c.spool.reserve(int64(len(out.body)))
	return e, nil, d.patient(ctx, always, func() error {
		_, err := c.spool.file.WriteAt(out.body, e.at)
		return err
	})
}

// input is what is read of an item. free gives its room back.
type input struct {
	*io.SectionReader
	memory []byte // all of it, unless it's in a spool
	free   func()
}

// again reads it from its start. What is in memory goes out together with the head of its request: net/http tells that by
// the reader's type.
func (in input) again() io.Reader {
	if in.memory != nil {
		return bytes.NewReader(in.memory)
	}
	return io.NewSectionReader(in, 0, in.Size())
}

// input reads the whole input: a large one into a spool of its own. The storage's troubles are waited out.
func (d *driver) input(ctx context.Context, source storage.URL, item batch.Item, limit int64) (input, *failure, error) {
	var in input
	var denied time.Time
	err := d.patient(ctx, func(err error) bool {
		if errors.Is(err, storage.ErrDenied) && !errors.Is(err, storage.ErrForbidden) {
			if denied.IsZero() {
				denied = time.Now()
			}
			return time.Since(denied) < deniedFor
		}
		return !errors.Is(err, storage.ErrForbidden) && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrChanged) &&
			!errors.Is(err, storage.ErrTooLarge) && !errors.Is(err, storage.ErrInvalid)
	}, func() error {
		body, object, err := d.working().store.Read(ctx, source, storage.ReadOptions{IfETag: item.ETag, Limit: limit})
		if err != nil {
			return err
		}
		got, err := d.takeIn(body, object.Size)
		if err := errors.Join(err, body.Close()); err != nil {
			if got.free != nil {
				got.free()
			}
			return err
		}
		in = got
		return nil
	})
	switch {
	case ctx.Err() != nil:
		if in.free != nil {
			in.free()
		}
		return input{}, nil, ctx.Err()
	case err != nil:
		return input{}, &failure{fault: batch.ItemFault, message: err.Error()}, nil //nolint:nilerr // it's the item's
	}
	return in, nil, nil
}

// takeIn reads a body to its end. size is -1 when it isn't known.
func (d *driver) takeIn(body io.Reader, size int64) (input, error) {
	var buf bytes.Buffer
	if size >= 0 {
		buf.Grow(int(min(size+bytes.MinRead, largeBytes)))
	}
	n, err := io.Copy(&buf, io.LimitReader(body, largeBytes))
	if err != nil {
		return input{}, err
	}
	if n < largeBytes {
		return input{io.NewSectionReader(bytes.NewReader(buf.Bytes()), 0, n), buf.Bytes(), func() {}}, nil
	}
	s, err := newSpool(d.m.cfg.Dir)
	if err != nil {
		return input{}, err
	}
	n, err = io.Copy(s.file, io.MultiReader(&buf, body))
	if err != nil {
		s.close()
		return input{}, err
	}
	return input{s.section(extent{0, n}), nil, s.close}, nil
}

// byRow sends the rows of an input, several at a time, and answers their lines in order.
func (d *driver) byRow(c *chunk, w *work, format string, item batch.Item, in *io.SectionReader, count *attempts) (extent, *failure, error) {
	ctx, cancel := context.WithCancelCause(c.itemCtx)
	defer cancel(nil)
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		lines  []extent
		failed rowFailures
		slots  = make(chan struct{}, w.concurrency)
	)
	i := 0
	for r, err := range w.form.rowRequests(format, in) {
		if err != nil {
			cancel(err)
			break
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		at := i
		i++
		mu.Lock()
		lines = append(lines, extent{})
		mu.Unlock()
		wg.Go(func() {
			defer func() { <-slots }()
			line, fail, err := d.sendAndKeep(ctx, c, w, key{item.N, r.row()}, &r, count)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				cancel(err)
			case fail != nil:
				failed.add(r.rows, *fail)
			default:
				lines[at] = line
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return extent{}, nil, err
	}
	if len(failed.rows) > 0 {
		return extent{}, &failure{fault: failed.why.fault, message: failed.message(), crashed: failed.crashed}, nil
	}
	result, err := d.join(ctx, c.spool, lines)
	return result, nil, err
}

// join makes one extent of several, in their order.
func (d *driver) join(ctx context.Context, s *spool, lines []extent) (extent, error) {
	var whole extent
	inOrder := true
	for i, e := range lines {
		if i == 0 {
			whole.at = e.at
		}
		inOrder = inOrder && e.at == whole.at+whole.size
		whole.size += e.size
	}
	if inOrder {
		return whole, nil
	}
	whole = s.reserve(whole.size)
	err := d.patient(ctx, always, func() error {
		out := io.NewOffsetWriter(s.file, whole.at)
		for _, line := range lines {
			if _, err := io.Copy(out, s.section(line)); err != nil {
				return fmt.Errorf("join the rows' results: %w", err)
			}
		}
		return nil
	})
	return whole, err
}
