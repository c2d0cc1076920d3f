package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// Storage reads inputs and keeps what a task makes; *storage.Storage is one. Errors are those of package storage.
type Storage interface {
	Read(ctx context.Context, u storage.URL, opts storage.ReadOptions) (io.ReadCloser, storage.Object, error)
	// Write puts size bytes under a name, whole or not at all.
	Write(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error
	// WriteUnsynced survives a power failure after Sync of the folder's file system. A new name may be seen before all is there.
	WriteUnsynced(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error
	Sync(ctx context.Context, folder storage.URL) error
	Close()
}

const (
	// Retries of a request, where the job doesn't say.
	defaultModelRetries = 3
	defaultItemTimeout  = 40 * time.Second
	defaultConcurrency  = 64
)

// work is a setup made ready. It doesn't change.
type work struct {
	setup        *fleetv1.TaskSetup
	store        Storage
	form         *form
	output       storage.URL // of the results and manifests
	directory    storage.URL // of the job, beside them
	timeout      time.Duration
	itemRetries  int
	modelRetries int
	concurrency  int
}

// newWork makes a setup ready.
func newWork(project string, setup *fleetv1.TaskSetup, open func(string, *fleetv1.TaskSetup) (Storage, error)) (_ *work, err error) {
	spec := setup.GetSpec()
	w := &work{
		setup: setup, itemRetries: int(spec.GetItemRetries()), modelRetries: defaultModelRetries,
		timeout:     cmp.Or(time.Duration(spec.GetItemTimeoutSeconds())*time.Second, defaultItemTimeout),
		concurrency: cmp.Or(int(spec.GetMaxConcurrency()), defaultConcurrency),
	}
	if spec.ModelRetries != nil {
		w.modelRetries = int(spec.GetModelRetries())
	}
	if w.form, err = newForm(spec, setup.GetRoute()); err != nil {
		return nil, err
	}
	for field, to := range map[string]struct {
		from string
		url  *storage.URL
	}{"output": {spec.GetOutput(), &w.output}, "directory": {setup.GetDirectory(), &w.directory}} {
		u, err := storage.ParseURL(to.from)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		*to.url = u.Folder()
	}
	if w.store, err = open(project, setup); err != nil {
		return nil, err
	}
	return w, nil
}

// errNotListed says that the setup doesn't name items yet.
var errNotListed = errors.New("the scheduler hasn't told yet where the items are listed")

// items reads from the index parts which items have the numbers from ≤ n < to.
func (w *work) items(ctx context.Context, from, to int64) ([]batch.Item, error) {
	out := make([]batch.Item, 0, to-from)
	for _, part := range w.setup.GetParts() {
		first, last := max(from, part.GetFrom()), min(to, part.GetFrom()+part.GetItems())
		if first >= last {
			continue
		}
		u, err := w.directory.Join(part.GetObject())
		if err != nil {
			return nil, err
		}
		body, _, err := w.store.Read(ctx, u, storage.ReadOptions{})
		if err != nil {
			return nil, err
		}
		items, err := batch.ReadPart(body, part.GetFrom(), first, last)
		if err := errors.Join(err, body.Close()); err != nil {
			return nil, err
		}
		out = append(out, items...)
	}
	if int64(len(out)) != to-from {
		return nil, errNotListed
	}
	return out, nil
}

// packURL is where the pack of a chunk is.
func (w *work) packURL(c *fleetv1.Chunk) (storage.URL, error) {
	return w.directory.Join(batch.PackName(c.GetFrom(), c.GetAttempt()))
}

// resultURL is where the result of a task's item is.
func (w *work) resultURL(task, name string) (storage.URL, error) {
	return w.output.Join(batch.ResultDirectory(task) + "/" + name)
}

// manifestURL is where a task's manifest of a number is.
func (w *work) manifestURL(m *fleetv1.Manifest) (storage.URL, error) {
	return w.output.Join(batch.ManifestName(m.GetTask(), m.GetNumber()))
}
