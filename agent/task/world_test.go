package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// pipes is a listener of connections within a bubble of synctest.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
	case <-ctx.Done():
	}
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

// container is what an instance runs: a model that can be killed.
type container struct {
	w       *world
	inst    *fleetv1.Instance
	mu      sync.Mutex
	pipes   *pipes
	server  *http.Server
	attempt uint32
	exits   int
	alive   bool
	closed  bool
}

// start begins the next attempt and has it ready.
func (c *container) start() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.attempt++
	c.alive = true
	c.pipes = newPipes()
	c.server = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { c.w.model(c, rw, r) })}
	server, pipes := c.server, c.pipes
	c.mu.Unlock()
	c.w.wg.Go(func() { _ = server.Serve(pipes) })
	c.tell(fleetv1.InstanceRunning, c.inst.GetMeta().GetId()+":80")
}

func (c *container) tell(state, address string) {
	c.mu.Lock()
	inst := &fleetv1.Instance{Meta: c.inst.Meta, Spec: c.inst.Spec, Observed: &fleetv1.InstanceObserved{State: state, Attempt: c.attempt}}
	c.mu.Unlock()
	c.w.m.Serve(inst, address)
}

// exit ends the process with its connections; it's started again after a second.
func (c *container) exit() {
	c.mu.Lock()
	alive, server := c.alive, c.server
	c.alive = false
	if alive {
		c.exits++
	}
	c.mu.Unlock()
	if !alive {
		return
	}
	_ = server.Close()
	c.tell(fleetv1.InstanceExited, "")
	c.w.wg.Go(func() {
		if sleep(c.w.ctx, time.Second, nil) {
			c.start()
		}
	})
}

// die ends the process in the middle of a request.
func (c *container) die() {
	c.exit()
	panic(http.ErrAbortHandler)
}

func (c *container) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	_ = c.server.Close()
}

// trouble is storage that can be made to fail.
type trouble struct {
	Storage
	w *world
}

func (s trouble) Read(ctx context.Context, u storage.URL, opts storage.ReadOptions) (io.ReadCloser, storage.Object, error) {
	if err := s.w.fault("read", u); err != nil {
		return nil, storage.Object{}, err
	}
	return s.Storage.Read(ctx, u, opts)
}

func (s trouble) Write(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error {
	if err := s.w.fault("write", u); err != nil {
		return err
	}
	return s.Storage.Write(ctx, u, r, size)
}

func (s trouble) WriteUnsynced(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error {
	if err := s.w.fault("write", u); err != nil {
		return err
	}
	return s.Storage.WriteUnsynced(ctx, u, r, size)
}

// world is a job, a scheduler and instances in one bubble.
type world struct {
	t          testing.TB
	dir        string
	ctx        context.Context
	stop       context.CancelFunc
	wg         sync.WaitGroup
	m          *Manager
	leader     *leader
	containers map[string]*container
	model      func(c *container, rw http.ResponseWriter, r *http.Request)

	mu       sync.Mutex
	fault_   func(op string, u storage.URL) error
	requests map[string]int // by body
}

func (w *world) fault(op string, u storage.URL) error {
	w.mu.Lock()
	f := w.fault_
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op, u)
}

func (w *world) setFault(f func(op string, u storage.URL) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault_ = f
}

// file is one input.
type file struct{ name, content string }

// inputs are so many files with their numbers.
func inputs(n int) []file {
	var out []file
	for i := range n {
		out = append(out, file{fmt.Sprintf("i-%05d.json", i), fmt.Sprintf(`{"n":%d}`, i)})
	}
	return out
}

func object(fields map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return s
}

// ours is the project of the job.
const ours = "default"

// newWorld lists the inputs of a job; its instances are to be added.
func newWorld(t testing.TB, spec *fleetv1.JobSpec, files []file) *world {
	w := &world{t: t, dir: t.TempDir(), containers: map[string]*container{}, requests: map[string]int{}}
	w.ctx, w.stop = context.WithCancel(t.Context())
	w.model = echo
	url := "file://" + w.dir
	spec.Output = url + "/out/"
	index := filepath.Join(w.dir, "out/.drover/job")
	for _, dir := range []string{filepath.Join(w.dir, "in"), index} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	store, err := storage.Open(storage.Config{Dirs: []string{w.dir}, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	names := batch.NewNamer()
	setup := &fleetv1.TaskSetup{
		Version: "1", JobId: "job", Spec: spec, Directory: url + "/out/.drover/job/",
		Route: &fleetv1.APIRoute{Url: "/infer", Response: &fleetv1.APISchema{Data: object(map[string]any{"type": "object"})}},
	}
	for from := 0; from < len(files); from += batch.PartItems {
		var part bytes.Buffer
		p := batch.NewPartWriter(&part, int64(from))
		for i, f := range files[from:min(len(files), from+batch.PartItems)] {
			path := filepath.Join(w.dir, "in", f.name)
			if err := os.WriteFile(path, []byte(f.content), 0o600); err != nil {
				t.Fatal(err)
			}
			u, err := storage.ParseURL("file://" + path)
			if err != nil {
				t.Fatal(err)
			}
			o, err := store.Stat(w.ctx, u)
			if err != nil {
				t.Fatal(err)
			}
			item := batch.Item{N: int64(from + i), Source: u.Signed(), Size: o.Size, ETag: o.ETag, Name: names.Name(u.Signed())}
			if err := p.Write(item); err != nil {
				t.Fatal(err)
			}
		}
		items := p.Items()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("input-%d-x.jsonl", len(setup.Parts))
		if err := os.WriteFile(filepath.Join(index, name), part.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		setup.Parts = append(setup.Parts, &fleetv1.InputPart{From: int64(from), Items: items, Object: name})
	}
	w.leader = newLeader(setup, int64(len(files)))
	w.m = New(Config{
		Exchange: w.leader.exchange, Dir: filepath.Join(w.dir, "spools"),
		Open: func(project string, _ *fleetv1.TaskSetup) (Storage, error) {
			if project != ours {
				return nil, fmt.Errorf("opened for project %q, want %q", project, ours)
			}
			return trouble{store, w}, nil
		},
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			id, _, _ := net.SplitHostPort(address)
			c := w.containers[id]
			c.mu.Lock()
			p := c.pipes
			c.mu.Unlock()
			return p.dial(ctx)
		},
	})
	return w
}

// add makes instances; begin has them and the agent go.
func (w *world) add(ids ...string) *world {
	for _, id := range ids {
		w.containers[id] = &container{w: w, inst: &fleetv1.Instance{
			Meta: &fleetv1.Meta{Id: id, Name: id, Project: ours}, Spec: &fleetv1.InstanceSpec{JobId: "job", GracePeriodSeconds: 10},
		}}
	}
	return w
}

func (w *world) begin() *world {
	w.wg.Go(func() {
		if err := w.m.Run(w.ctx); err != nil {
			w.t.Error(err)
		}
	})
	for _, c := range w.containers {
		c.start()
	}
	return w
}

func (w *world) end() {
	w.stop()
	for _, c := range w.containers {
		c.close()
	}
	w.wg.Wait()
	w.m.wg.Wait()
}

// finish waits for the end of the job, at most for so long, and checks its output.
func (w *world) finish(patience time.Duration) map[string]batch.ManifestLine {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for !w.leader.completed() {
		if time.Now().After(deadline) {
			w.t.Fatalf("the job hasn't ended: %s\n%+v", w.leader, w.m.Tasks())
		}
		time.Sleep(time.Second)
	}
	w.end()
	return w.check()
}

// check reads the output: every input has exactly one line in the manifests, and nothing else is there.
func (w *world) check() map[string]batch.ManifestLine {
	w.t.Helper()
	lines := w.lines()
	if int64(len(lines)) != w.leader.items {
		w.t.Errorf("the manifests have %d of %d items", len(lines), w.leader.items)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "spools")); err != nil || len(left) > 0 {
		w.t.Errorf("of the spools is left: %v, %v", left, err)
	}
	return lines
}

// lines answers what the manifests say, by the base name of the input.
func (w *world) lines() map[string]batch.ManifestLine {
	w.t.Helper()
	lines := map[string]batch.ManifestLine{}
	manifests, err := filepath.Glob(filepath.Join(w.dir, "out", "*.manifest"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range manifests {
		content, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		for r := batch.NewManifestReader(bytes.NewReader(content)); ; {
			line, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.t.Fatalf("%s: %v", path, err)
			}
			name := filepath.Base(line.Source)
			if _, twice := lines[name]; twice {
				w.t.Errorf("%s has two lines", name)
			}
			lines[name] = line
		}
	}
	return lines
}

// result answers the result that a line names.
func (w *world) result(line batch.ManifestLine) string {
	w.t.Helper()
	content, err := os.ReadFile(strings.TrimPrefix(line.Location, "file://"))
	if err != nil {
		w.t.Error(err)
	}
	return string(content)
}

// echo answers what it was asked.
func echo(_ *container, rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(rw, `{"echo":%s}`, body)
}
