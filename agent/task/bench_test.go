package task

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// forgetful is storage that keeps what a job begins with, and takes everything else without keeping it.
type forgetful struct{ Storage }

func (forgetful) Write(context.Context, storage.URL, io.ReaderAt, int64) error { return nil }

func (forgetful) WriteUnsynced(context.Context, storage.URL, io.ReaderAt, int64) error { return nil }

// BenchmarkItem is what an item costs when the model answers at once: with a task, and with a plain client that has as
// many requests in flight.
func BenchmarkItem(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { echo(nil, rw, r) }))
	defer server.Close()
	address := server.Listener.Addr().String()
	for _, c := range []struct {
		name string
		wrap func(Storage) Storage
	}{{"task", func(s Storage) Storage { return s }}, {"task without writing", func(s Storage) Storage { return forgetful{s} }}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			w := newWorld(b, &fleetv1.JobSpec{}, inputs(b.N)).add("a")
			w.leader.size = 500
			open := w.m.cfg.Open
			w.m.cfg.Open = func(project string, setup *fleetv1.TaskSetup) (Storage, error) {
				s, err := open(project, setup)
				return c.wrap(s), err
			}
			w.m.cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}
			b.ResetTimer()
			w.begin()
			for !w.leader.completed() {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			w.end()
		})
	}
	b.Run("client", func(b *testing.B) {
		b.ReportAllocs()
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: defaultConcurrency}}
		defer client.CloseIdleConnections()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			wg.Go(func() {
				for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
					resp, err := client.Post("http://"+address+"/infer", batch.ContentJSON, strings.NewReader(fmt.Sprintf(`{"n":%d}`, n)))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
	})
}
