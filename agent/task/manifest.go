package task

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// manifestKey names a manifest.
type manifestKey struct {
	task   string
	number int32
}

// manifest is one that this task is to write.
type manifest struct {
	*fleetv1.Manifest
	written bool
	cancel  context.CancelFunc
	over    chan struct{} // closed when nobody writes it
}

// takeManifestsLocked begins the manifests that the scheduler names, and forgets the others.
func (d *driver) takeManifestsLocked(all []*fleetv1.Manifest) {
	named := map[manifestKey]bool{}
	for _, m := range all {
		k := manifestKey{m.GetTask(), m.GetNumber()}
		named[k] = true
		if d.work == nil {
			continue
		}
		before := make(chan struct{})
		if old := d.manifests[k]; old == nil {
			close(before)
		} else if proto.Equal(old.Manifest, m) {
			continue
		} else { // a pack was lost since, or it is of before the schedulers were restored from a backup
			old.cancel()
			before = old.over
		}
		ctx, cancel := context.WithCancel(d.ctx)
		wanted := &manifest{Manifest: m, cancel: cancel, over: make(chan struct{})}
		d.manifests[k] = wanted
		d.wg.Go(func() {
			defer close(wanted.over)
			<-before
			if d.writeManifest(ctx, m) != nil {
				return // it isn't wanted any more
			}
			d.mu.Lock()
			wanted.written = true
			d.mu.Unlock()
			d.tell()
		})
	}
	for k, m := range d.manifests {
		if named[k] {
			continue
		}
		m.cancel()
		delete(d.manifests, k)
		for _, c := range m.GetChunks() {
			delete(d.published, c.GetAttempt())
		}
	}
}

// found says of an error that it may pass by itself and isn't about a pack that isn't there.
func found(err error) bool { return !errors.Is(err, storage.ErrNotFound) }

// linesOf answers what a manifest says of a chunk, once its results are published: by this driver, which may be about
// to, or from the pack. A pack that isn't there is not waited for.
func (d *driver) linesOf(ctx context.Context, c *fleetv1.Chunk) ([]byte, error) {
	for {
		d.mu.Lock()
		lines, published := d.published[c.GetAttempt()]
		inHand := slices.ContainsFunc(d.chunks, func(o *chunk) bool { return o.lease.GetAttempt() == c.GetAttempt() })
		changed := d.changed
		d.mu.Unlock()
		switch {
		case published:
			return lines, nil
		case !inHand:
			lines, err := d.publishPack(ctx, c, found)
			if err == nil { // not again for the sake of another chunk
				d.mu.Lock()
				d.published[c.GetAttempt()] = lines
				d.mu.Unlock()
			}
			return lines, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// contentOf is what a manifest says. All packs are looked for before one that isn't there is waited for, so that the scheduler
// hears of all of them.
func (d *driver) contentOf(ctx context.Context, m *fleetv1.Manifest) ([]byte, error) {
	defer func() {
		for _, c := range m.GetChunks() {
			d.misses(c, false)
		}
	}()
	var content []byte
	err := d.patient(ctx, always, func() (missing error) {
		content = nil
		for _, c := range m.GetChunks() {
			lines, err := d.linesOf(ctx, c)
			if err != nil && found(err) {
				return err
			}
			missing = cmp.Or(missing, err)
			content = append(content, lines...)
		}
		return missing
	})
	return content, err
}

// writeManifest has every result of a manifest under its final name before the manifest names it.
func (d *driver) writeManifest(ctx context.Context, m *fleetv1.Manifest) error {
	content, err := d.contentOf(ctx, m)
	if err != nil {
		return err
	}
	return d.patient(ctx, always, func() error {
		w := d.working()
		u, err := w.manifestURL(m)
		if err != nil {
			return err
		}
		return w.store.Write(ctx, u, bytes.NewReader(content), int64(len(content)))
	})
}
