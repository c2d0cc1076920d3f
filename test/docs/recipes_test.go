package docs

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// schedulerStandIn answers look-ups of one service, over HTTPS, to a token "t": once, or as a watch.
type schedulerStandIn struct {
	url, caFile string

	mu      sync.Mutex
	answer  string
	changed chan struct{} // closed and replaced with the answer
}

func newSchedulerStandIn(t *testing.T) *schedulerStandIn {
	t.Helper()
	s := &schedulerStandIn{changed: make(chan struct{})}
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	s.url, s.caFile = srv.URL, filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// publish lists servers, "host:port" each, as the instances.
func (s *schedulerStandIn) publish(servers ...string) {
	var list []string
	for i, server := range servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			panic(err)
		}
		list = append(list, fmt.Sprintf(`{"schema":"http","ip":%q,"port":%s,"model":"iris","model_version":"%d.0.0","weight":50,"instance_id":"i-%d"}`, host, port, i, i))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = fmt.Sprintf(`{"host_endpoints":[%s],"index":4711,"max_age_seconds":3}`, strings.Join(list, ","))
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *schedulerStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.Header.Get("X-Auth-Token") != "t":
		w.WriteHeader(http.StatusUnauthorized)
		return
	case r.URL.Path != "/v1/default/services/iris/predict/endpoints" || q.Get("type") != "host_endpoints":
		w.WriteHeader(http.StatusNotFound)
		return
	case q.Get("watch") == "true":
		w.Header().Set("Content-Type", "text/event-stream")
	}
	for {
		s.mu.Lock()
		answer, changed := s.answer, s.changed
		s.mu.Unlock()
		if q.Get("watch") != "true" {
			io.WriteString(w, answer+"\n")
			return
		}
		fmt.Fprintf(w, "event: stale\ndata: false\n\n:\n\nid: 4711\ndata: %s\n\n", answer)
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *schedulerStandIn) env() []string {
	return append(os.Environ(), "SCHEDULER="+s.url, "CA="+s.caFile, "TOKEN=t")
}

// refused is an address where nothing listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func clientPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "client.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestRecipes runs the recipes of docs/client.md for clients without the library.
func TestRecipes(t *testing.T) {
	t.Run("curl", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("SKIPPED: the recipe for curl needs curl: apt-get install curl")
		}
		testCurlRecipe(t)
	})
	t.Run("python", func(t *testing.T) {
		if _, err := exec.LookPath("python3"); err != nil {
			t.Skip("SKIPPED: the recipe in Python needs python3: apt-get install python3")
		}
		testPythonRecipe(t)
	})
}

func testCurlRecipe(t *testing.T) {
	s := newSchedulerStandIn(t)
	s.publish("127.0.0.1:30001")
	blocks, err := extract(clientPage(t))
	if err != nil {
		t.Fatal(err)
	}
	var commands []command
	for _, b := range blocks {
		if strings.HasPrefix(b.Untested, "TestRecipes runs it") {
			commands = append(commands, b.Commands...)
		}
	}
	if len(commands) != 2 {
		t.Fatalf("%d commands, want a look-up and a watch", len(commands))
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	once := &session{dir: t.TempDir(), env: s.env()}
	p, err := once.spawn(ctx, commands[0])
	if err == nil {
		err = p.wait()
	}
	if err != nil || !strings.HasPrefix(p.output(), `{"host_endpoints":[{`) {
		t.Errorf("%s: %v\n%s", commands[0].Text, err, p.output())
	}
	watch := &session{dir: t.TempDir(), env: s.env()}
	watched := commands[1]
	watched.Want = []string{`data: {"host_endpoints":[{…"port":30001,…`}
	if err := watch.start(ctx, watched); err != nil {
		t.Fatal(err)
	}
	s.publish("127.0.0.1:30002")
	again := watch.daemons[0]
	for {
		grown := again.grown()
		if strings.Contains(again.output(), `"port":30002,`) {
			break
		}
		select {
		case <-grown:
		case <-ctx.Done():
			t.Fatalf("%s shows no change:\n%s", watched.Text, again.output())
		}
	}
	if err := watch.close(); err != nil {
		t.Error(err)
	}
}

var python = regexp.MustCompile("(?s)```python\n(.*?)```")

const maxRecipe = 40 // lines

// pythonCalls uses the recipe until both servers have answered, and then only the second one does.
const pythonCalls = `
service, answers, end = Service("iris"), set(), time.time() + 60
while answers != {"first", "second"} and time.time() < end:
    answers.add(service.call("/predict", b"{}").decode())
print(sorted(answers), flush=True)
input()
while len(service.endpoints) != 1 and time.time() < end:
    time.sleep(0.01)
print({service.call("/predict").decode() for _ in range(20)})
`

func testPythonRecipe(t *testing.T) {
	m := python.FindStringSubmatch(clientPage(t))
	if m == nil {
		t.Fatal("docs/client.md has no recipe in Python")
	}
	if n := strings.Count(m[1], "\n"); n > maxRecipe {
		t.Errorf("the recipe has %d lines, at most %d", n, maxRecipe)
	}
	var servers []string
	for _, name := range []string{"first", "second"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
		t.Cleanup(srv.Close)
		servers = append(servers, srv.Listener.Addr().String())
	}
	s := newSchedulerStandIn(t)
	s.publish(refused(t), servers[0], servers[1])
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", "-c", m[1]+pythonCalls)
	cmd.Env = append(s.env(), "SCHEDULERS=https://"+refused(t)+","+s.url)
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	out := &watchedOutput{want: "['first', 'second']\n", then: func() {
		s.publish(servers[1])
		io.WriteString(in, "\n")
	}}
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); err != nil || out.text.String() != out.want+"{'second'}\n" {
		t.Errorf("%v\n%s%s", err, out.text.String(), stderr.String())
	}
}

// watchedOutput does something when a line has come.
type watchedOutput struct {
	text strings.Builder
	want string
	then func()
}

func (o *watchedOutput) Write(b []byte) (int, error) {
	o.text.Write(b)
	if o.then != nil && strings.HasSuffix(o.text.String(), o.want) {
		o.then()
		o.then = nil
	}
	return len(b), nil
}
