package direct

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/drover-fleet/drover/signature"
)

// fakeScheduler answers look-ups as schedulers do.
type fakeScheduler struct {
	mu         sync.Mutex
	list       []Endpoint
	index      uint64
	changed    chan struct{} // closed and replaced when it changes
	old        bool          // knows no watches and takes them for plain look-ups
	older      bool          // nor blocking queries
	refuse     func(w http.ResponseWriter) bool
	queries    []string
	leaderless bool   // says so in watches
	over       string // the error that ends watches
	secret     string // of the access key that requests are to be signed with, and that watches end with
	down       bool
}

func newFakeScheduler(list ...Endpoint) *fakeScheduler {
	return &fakeScheduler{list: list, index: 1, changed: make(chan struct{})}
}

// do changes it.
func (f *fakeScheduler) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeScheduler) publish(index uint64, list ...Endpoint) {
	f.do(func() { f.index, f.list = index, list })
}

// answerLocked renders the answer.
func (f *fakeScheduler) answerLocked() string {
	list := f.list
	if list == nil {
		list = []Endpoint{}
	}
	b, err := json.Marshal(Endpoints{HostEndpoints: list, Index: f.index, MaxAgeSeconds: 4})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (f *fakeScheduler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, r.URL.RawQuery)
	if f.refuse != nil && f.refuse(w) || f.unsigned(r) != nil && refusal(http.StatusUnauthorized)(w) {
		return
	}
	q := r.URL.Query()
	if q.Get("watch") == "true" && !f.old {
		w.Header().Set("Content-Type", "text/event-stream")
		f.watchLocked(w, r)
		return
	}
	known := func() bool { return r.Header.Get("If-None-Match") == f.etagLocked() }
	if index, err := strconv.ParseUint(q.Get("index"), 10, 64); err == nil && !f.older {
		wait, err := time.ParseDuration(q.Get("wait"))
		if err != nil {
			panic(err)
		}
		for timeout := time.After(wait); f.index <= index && known(); {
			if !f.waitLocked(r, timeout) {
				break
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Etag", f.etagLocked())
	if known() {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	fmt.Fprintln(w, f.answerLocked())
}

func (f *fakeScheduler) etagLocked() string { return strconv.Quote(f.answerLocked()) }

// watchLocked sends what changes, and a comment now and then, until it is down.
func (f *fakeScheduler) watchLocked(w http.ResponseWriter, r *http.Request) {
	sent, leaderless := "", false
	for !f.down && r.Context().Err() == nil {
		switch answer := f.answerLocked(); {
		case f.unsigned(r) != nil:
			fmt.Fprintf(w, "event: error\ndata: {\"error_code\":\"DROVER.0401\",\"error_msg\":%q}\n\n", f.unsigned(r))
			return
		case f.over != "":
			fmt.Fprintf(w, "event: error\ndata: %s\n\n", f.over)
			return
		case f.leaderless != leaderless:
			leaderless = f.leaderless
			fmt.Fprintf(w, "event: stale\ndata: %v\n\n", leaderless)
			continue
		case answer != sent:
			sent = answer
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", f.index, answer)
		default:
			fmt.Fprint(w, ":\n\n")
		}
		w.(http.Flusher).Flush()
		f.waitLocked(r, time.After(15*time.Second))
	}
}

// unsigned says why a request isn't let in, or not any more.
func (f *fakeScheduler) unsigned(r *http.Request) error {
	if f.secret == "" {
		return nil
	}
	claim, err := signature.Parse(r)
	if err != nil {
		return err
	}
	return claim.Verify(signature.Verifier{Secret: f.secret, Now: time.Now()})
}

// waitLocked waits for a change, unlocked, and says whether there was one.
func (f *fakeScheduler) waitLocked(r *http.Request, timeout <-chan time.Time) bool {
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
		return true
	case <-timeout:
	case <-r.Context().Done():
	}
	return false
}

// asked answers the queries so far.
func (f *fakeScheduler) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.queries)
}

// refusal answers what a scheduler's refuse may be.
func refusal(status int, header ...string) func(http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error_code":"DROVER.0%d","error_msg":"refused"}`, status)
		return true
	}
}

// memoryNetwork is an http.RoundTripper without a network: the handlers run in goroutines of the caller's.
type memoryNetwork map[string]http.Handler

func (m memoryNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	h := m[r.URL.Host]
	if h == nil {
		return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("connection refused")}
	}
	body, out := io.Pipe()
	w := &memoryWriter{header: http.Header{}, out: out, begun: make(chan struct{})}
	go func() {
		h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		out.Close()
	}()
	go func() {
		<-r.Context().Done()
		body.CloseWithError(r.Context().Err())
	}()
	select {
	case <-w.begun:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: w.status, Header: w.header, Body: body, Request: r}, nil
}

type memoryWriter struct {
	header http.Header
	status int
	out    *io.PipeWriter
	begun  chan struct{}
}

func (w *memoryWriter) Header() http.Header { return w.header }
func (w *memoryWriter) Flush()              { w.WriteHeader(http.StatusOK) }

func (w *memoryWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		close(w.begun)
	}
}

func (w *memoryWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(b)
}

// following starts a Service that reaches the schedulers a, b, … of a network without a network.
func following(t *testing.T, schedulers ...*fakeScheduler) *Service {
	t.Helper()
	return followingAs(t, Config{Service: "iris", Credentials: Credentials{Token: "t"}}, schedulers...)
}

func followingAs(t *testing.T, cfg Config, schedulers ...*fakeScheduler) *Service {
	t.Helper()
	network := memoryNetwork{}
	for i, s := range schedulers {
		host := string(rune('a' + i))
		network[host] = s
		cfg.Schedulers = append(cfg.Schedulers, "https://"+host)
	}
	cfg, err := cfg.checked()
	if err != nil {
		t.Fatal(err)
	}
	s := start(cfg, &http.Client{Transport: network})
	t.Cleanup(s.Close)
	return s
}

// endpoint number i of a version.
func endpoint(i int, version string, weight int) Endpoint {
	return Endpoint{Schema: "http", IP: "10.0.0.1", Port: 30000 + i, Model: "iris", ModelVersion: version, Weight: weight, InstanceID: fmt.Sprint("i", i)}
}
