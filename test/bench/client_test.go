//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/client/direct"
)

const (
	clientReport    = "client"
	clientRounds    = 15
	clientCalls     = 10_000 // a round
	clientInstances = 4
	clientCallers   = 16
	clientKills     = 30
	killEvery       = time.Second
	noticed         = 200 * time.Millisecond // until the look-up has it that an instance was killed, and which one came
)

// TestClientFigures measures what the Go client library adds to a call, and whether calls fail while instances are killed.
func TestClientFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: clientReport, title: "Figures of the client library"}}
	b.report.describeMachine()
	c := b.newClientBench()
	defer c.close()
	c.latency()
	c.kills()
	b.must(b.report.write())
	fmt.Print(b.report.text())
}

// clientBench is a service whose instances are processes, and a stand-in for the scheduler.
type clientBench struct {
	*bench
	scheduler *httptest.Server
	service   *direct.Service
	instances []clientInstance

	mu      sync.Mutex
	answer  []byte
	index   uint64
	changed chan struct{} // closed and replaced with the answer
}

type clientInstance struct {
	endpoint direct.Endpoint
	stop     func() error
}

func (b *bench) newClientBench() *clientBench {
	c := &clientBench{bench: b, changed: make(chan struct{})}
	c.instances = append(c.instances, c.start())
	c.publish()
	c.scheduler = httptest.NewServer(http.HandlerFunc(c.watch))
	var err error
	c.service, err = direct.Follow(direct.Config{Schedulers: []string{c.scheduler.URL}, Service: "app"})
	b.must(err)
	return c
}

func (c *clientBench) close() {
	c.service.Close()
	c.scheduler.CloseClientConnections()
	c.scheduler.Close()
	for _, i := range c.instances {
		c.must(i.stop())
	}
}

func (c *clientBench) start() clientInstance {
	addr, stop, err := startBare(c.t.TempDir(), canned{Header: http.Header{}, Body: []byte("hello")})
	c.must(err)
	host, port, err := net.SplitHostPort(addr)
	c.must(err)
	number, err := strconv.Atoi(port)
	c.must(err)
	return clientInstance{direct.Endpoint{Schema: "http", IP: host, Port: number, Model: "app", ModelVersion: "1", Weight: 100, InstanceID: addr}, stop}
}

// publish gives the instances that there are to whoever watches.
func (c *clientBench) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	list := direct.Endpoints{Index: c.index, MaxAgeSeconds: 3}
	for _, i := range c.instances {
		list.HostEndpoints = append(list.HostEndpoints, i.endpoint)
	}
	var err error
	c.answer, err = json.Marshal(list)
	c.must(err)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *clientBench) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		c.mu.Lock()
		answer, changed := c.answer, c.changed
		c.mu.Unlock()
		fmt.Fprintf(w, "data: %s\n\n", answer)
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// call makes one and reads its answer.
func (c *clientBench) call(via http.RoundTripper, r *http.Request) error {
	resp, err := via.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "hello") {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}

func (c *clientBench) request(method, url string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(c.t.Context(), method, url, body)
	c.must(err)
	return r
}

// latency compares calls of the only instance through the library with the same calls over a plain transport.
func (c *clientBench) latency() {
	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	library := direct.NewTransport(c.service, direct.TransportConfig{})
	defer library.CloseIdleConnections()
	ways := []func() error{
		func() error { return c.call(library, c.request(http.MethodGet, "http://app/", nil)) },
		func() error {
			return c.call(plain, c.request(http.MethodGet, "http://"+c.instances[0].endpoint.Address()+"/", nil))
		},
	}
	var took [2][]float64 // µs of a round's median call
	for round := range clientRounds + 1 {
		for turn := range ways {
			i := (round + turn) % 2 // neither is always first
			var calls []time.Duration
			for range clientCalls {
				start := time.Now()
				c.must(ways[i]())
				calls = append(calls, time.Since(start))
			}
			if round > 0 { // which warms up
				slices.Sort(calls)
				took[i] = append(took[i], float64(quantile(calls, 0.5))/float64(time.Microsecond))
			}
		}
	}
	var added []float64
	for i := range took[0] {
		added = append(added, took[0][i]-took[1][i])
	}
	bare := spreadOf(took[1])
	c.report.add(figure{Name: "a round's median call, one after the other", Unit: "µs", Measured: spreadOf(took[0]), Bare: &bare, N: clientRounds})
	c.report.add(figure{Name: "added to a call", Unit: "µs", Measured: spreadOf(added), Goal: &goal{AtMost: 30}, N: clientRounds})
}

// kills counts the calls that fail while one instance after the other is killed and replaced.
func (c *clientBench) kills() {
	for len(c.instances) < clientInstances {
		c.instances = append(c.instances, c.start())
	}
	c.publish()
	var calls, failed, retries atomic.Int64
	library := direct.NewTransport(c.service, direct.TransportConfig{Observer: retryCounter{&retries}})
	defer library.CloseIdleConnections()
	ctx, stop := context.WithCancel(c.t.Context())
	var callers sync.WaitGroup
	for range clientCallers {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				r := c.request(http.MethodGet, "http://app/", nil)
				if n%2 == 1 {
					r = c.request(http.MethodPost, "http://app/", strings.NewReader("body"))
					r.Header.Set("Idempotency-Key", strconv.Itoa(n))
				}
				calls.Add(1)
				if err := c.call(library, r); err != nil {
					failed.Add(1)
					c.t.Logf("a call failed: %v", err)
				}
			}
		})
	}
	for range clientKills {
		next := c.start()
		c.must(c.instances[0].stop())
		time.Sleep(noticed)
		c.instances = append(c.instances[1:], next)
		c.publish()
		time.Sleep(killEvery - noticed)
	}
	stop()
	callers.Wait()
	name := fmt.Sprintf("%d instances, one killed each %v, %d times, %d callers: ", clientInstances, killEvery, clientKills, clientCallers)
	c.report.add(figure{Name: name + "idempotent calls", Measured: one(float64(calls.Load())), N: 1})
	c.report.add(figure{Name: name + "of these made again", Measured: one(float64(retries.Load())), N: 1})
	c.report.add(figure{Name: name + "of these failed", Measured: one(float64(failed.Load())), Goal: &goal{None: true}, N: 1})
}

type retryCounter struct{ retries *atomic.Int64 }

func (c retryCounter) Observe(a direct.Attempt) {
	if a.Retry {
		c.retries.Add(1)
	}
}
