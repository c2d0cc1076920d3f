package jobs

import (
	"context"
	"fmt"
	"io"
	"iter"
	goruntime "runtime"
	"testing"

	"github.com/drover-fleet/drover/batch"
	"github.com/drover-fleet/drover/storage"
)

// endless lists as many keys as wanted, and forgets what is written.
type endless struct{ keys int }

func (e endless) List(_ context.Context, folder storage.URL, _ string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for i := range e.keys {
			u, err := folder.Join(fmt.Sprintf("%03d/%09d.jpg", i/1000, i))
			if !yield(storage.Object{URL: u, Size: 1, ETag: "0123456789abcdef0123456789abcdef"}, err) {
				return
			}
		}
	}
}

func (endless) Read(context.Context, storage.URL, storage.ReadOptions) (io.ReadCloser, storage.Object, error) {
	return nil, storage.Object{}, storage.ErrNotFound
}
func (endless) Stat(context.Context, storage.URL) (storage.Object, error) {
	return storage.Object{}, storage.ErrNotFound
}
func (endless) Write(context.Context, storage.URL, io.ReaderAt, int64) error { return nil }
func (endless) Delete(context.Context, storage.URL) error                    { return nil }
func (endless) Close()                                                       {}

// BenchmarkList is the listing of one key; heap-MB is what is kept of 1,000,000 of them.
func BenchmarkList(b *testing.B) {
	const keys = 1_000_000
	in, err := storage.ParseURL("s3://bucket/in/")
	if err != nil {
		b.Fatal(err)
	}
	var before, after goruntime.MemStats
	for range b.N {
		goruntime.GC()
		goruntime.ReadMemStats(&before)
		r := &run{term: &term{Coordinator: New(Config{})}, ctx: b.Context(), settled: make(chan struct{}, 1), wakeup: make(chan struct{}, 1)}
		l := &lister{run: r, store: endless{keys}, namer: batch.NewNamer(), dir: in}
		done := make(chan struct{})
		go func() { // what is found is committed at once
			defer close(done)
			for committed := 0; committed < keys/batch.PartItems; {
				<-r.wakeup
				r.mu.Lock()
				committed += len(r.found)
				r.found = nil
				r.mu.Unlock()
				select {
				case r.settled <- struct{}{}:
				default:
				}
			}
		}()
		if err := l.folder(in); err != nil {
			b.Fatal(err)
		}
		<-done
		goruntime.GC()
		goruntime.ReadMemStats(&after)
		goruntime.KeepAlive(l)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "heap-MB")
}
