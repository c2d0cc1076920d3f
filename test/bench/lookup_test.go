//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/signature"
	"github.com/drover-fleet/drover/test/machine"
)

const (
	lookupReport   = "lookup"
	lookupNodes    = 16
	watches        = 10_000
	watchRounds    = 10
	changesPerTick = 5 // each 50 ms
)

// TestLookupFigures measures look-ups while endpoints change, and watches, prints the table, and writes it down.
func TestLookupFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: lookupReport, title: "Figures of look-ups"}}
	b.report.describeMachine()
	b.measureGroups([]group{{"changing", b.changing}, {"unhealthy", b.unhealthy}, {"watches over HTTPS", b.watchesHTTPS}, {"watches over gRPC", b.watchesGRPC}})
}

// flapper makes instances of a service not ready, and ready again.
type flapper struct {
	agents    *agents
	instances []*fleetv1.Instance
	sequence  uint64
	next      int
}

func (b *bench) newFlapper(c *client.Client, f *agents, service string) *flapper {
	b.t.Helper()
	resp, err := c.Services.GetService(b.t.Context(), &fleetv1.GetServiceRequest{Name: service})
	b.must(err)
	return &flapper{agents: f, instances: resp.GetInstances(), sequence: 1}
}

// flap changes the next instance.
func (f *flapper) flap() error {
	if f.next%len(f.instances) == 0 {
		f.sequence++
	}
	i := f.instances[f.next%len(f.instances)]
	f.next++
	number, err := strconv.Atoi(strings.TrimPrefix(i.GetSpec().GetNode(), "node-"))
	if err != nil {
		return err
	}
	f.agents.mu.Lock()
	a := f.agents.all[number]
	f.agents.mu.Unlock()
	o := &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: f.sequence, Ready: f.sequence%2 == 1, Health: fleetv1.Healthy,
		Ip: i.GetObserved().GetIp(), Port: i.GetObserved().GetPort()}
	return a.send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: &fleetv1.StatusReport{
		Id: uint64(1_000_000 + f.next), Instances: []*fleetv1.InstanceReport{{InstanceId: i.GetMeta().GetId(), Observed: o}}}}})
}

// changing compares look-ups of one service with a bare server while 100 endpoints a second of another one change.
func (b *bench) changing() {
	c := b.newCluster(1)
	c.prepare()
	c.connect(lookupNodes)
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	for _, name := range []string{"asked", "changing"} {
		b.must(c.deploy(ctx, name, lookupNodes))
	}
	b.must(await(ctx, "acknowledged", 2*lookupNodes, time.Millisecond, c.agents.running.Load))
	flaps := b.newFlapper(c.client, c.agents, "changing")
	var changes sync.WaitGroup
	changes.Go(func() {
		every := time.NewTicker(time.Second / 100 * changesPerTick)
		defer every.Stop()
		for ctx.Err() == nil {
			<-every.C
			for range changesPerTick {
				if err := flaps.flap(); err != nil && ctx.Err() == nil {
					b.t.Errorf("change an endpoint: %v", err)
				}
			}
		}
	})
	base := "http://" + c.leader.cfg.HTTPAddr
	url := client.LookupURL(base, fleetv1.Default, "asked")
	answer, err := fetch(ctx, url, c.token)
	b.must(err)
	addr, stop, err := startBare(b.t.TempDir(), answer)
	b.must(err)
	signed, err := signedHeader(ctx, c.client, url)
	b.must(err)
	for _, l := range []lookups{{"a token", tokenHeader(c.token), 64, 0.7}, {"a token", tokenHeader(c.token), 1000, 0.7}, {"a signature", signed, 64, 0}} {
		b.besideBare(c, []string{c.leader.cfg.HTTPAddr, addr}, strings.TrimPrefix(url, base), l)
	}
	cancel()
	changes.Wait()
	b.must(stop())
	c.stop()
}

// lookups are look-ups of one kind.
type lookups struct {
	with        string
	header      http.Header
	connections int
	least       float64 // of the bare server's rate; 0: no goal
}

func tokenHeader(token string) http.Header { return http.Header{"X-Auth-Token": {token}} }

// signedHeader signs a look-up with a new key. The signature is good for 15 minutes.
func signedHeader(ctx context.Context, c *client.Client, url string) (http.Header, error) {
	made, err := c.Credentials.CreateKey(ctx, &fleetv1.CreateKeyRequest{User: fleetv1.Default, Scopes: []*fleetv1.Scope{{Project: fleetv1.Default, Role: fleetv1.RoleLookup}}})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	err = signature.Sign(r, made.GetKey().GetMeta().GetName(), made.GetSecret(), time.Now())
	return r.Header, err
}

func (b *bench) besideBare(c *cluster, servers []string, path string, l lookups) {
	var loads [2]*load
	defer func() {
		for _, l := range loads {
			if l != nil {
				_ = l.Close() // what it has asked is over
			}
		}
	}()
	for i, server := range servers {
		var err error
		loads[i], err = newLoad(b.t.Context(), server, path, l.header, l.connections)
		b.must(err)
	}
	const requests = lookupRequests / 4
	var rate, p50, p99, p999 [2][]float64
	var used time.Duration
	for round := range lookupRounds + 1 {
		for turn := range loads {
			i := (round + turn) % 2 // neither is always first
			before, err := cpuTime(c.leader.pid())
			b.must(err)
			latencies, took, err := loads[i].run(requests)
			b.must(err)
			if round == 0 {
				continue // warms both up
			}
			if i == 0 {
				after, err := cpuTime(c.leader.pid())
				b.must(err)
				used += after - before
			}
			rate[i] = append(rate[i], requests/took.Seconds())
			for _, q := range []struct {
				of   float64
				into *[]float64
			}{{0.5, &p50[i]}, {0.99, &p99[i]}, {0.999, &p999[i]}} {
				*q.into = append(*q.into, milliseconds([]time.Duration{quantile(latencies, q.of)})...)
			}
		}
	}
	what := fmt.Sprintf("look-ups with %s, %d connections, 100 endpoints a second change: ", l.with, l.connections)
	add := func(name, unit string, values [2][]float64, g *goal) {
		bare := spreadOf(values[1])
		b.report.add(figure{Name: what + name, Unit: unit, Measured: spreadOf(values[0]), Bare: &bare, Goal: g, N: lookupRounds})
	}
	var least *goal
	if l.least > 0 {
		least = &goal{AtLeast: l.least}
	}
	add("rate", "1/s", rate, least)
	add("median latency", "ms", p50, nil)
	add("99th of 100", "ms", p99, nil)
	add("999th of 1000", "ms", p999, nil)
	b.report.add(figure{Name: what + "the scheduler's processor time of each, all that it does besides included", Unit: "µs",
		Measured: one(float64(used.Microseconds()) / (lookupRounds * requests)), N: lookupRounds * requests})
}

// unhealthy measures how long an instance that fails its health check is in the answer of any of three schedulers.
func (b *bench) unhealthy() {
	const period, threshold, rounds = time.Second, 2, 20
	m := machine.Start(b.t, machine.Options{Schedulers: 3})
	m.DeployRunning(machine.Deployment{Name: "echo", Health: &fleetv1.HealthCheck{
		CheckMethod: "HTTP", Url: healthPath, PeriodSeconds: int32(period / time.Second), TimeoutSeconds: 1, FailureThreshold: threshold}})
	endpoint := m.WaitEndpoints(patience, "echo", 1)[0]
	set := func(ok string) {
		_, err := machine.Call(endpoint, "/health/set", url.Values{"ok": {ok}})
		b.must(err)
	}
	secret, err := os.ReadFile(m.AdminToken())
	b.must(err)
	hc, err := client.NewHTTPClient(m.CAFile())
	b.must(err)
	defer hc.CloseIdleConnections()
	// all waits until every scheduler answers so many endpoints.
	all := func(count int) {
		for _, s := range m.Schedulers.All {
			for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
				answer, err := client.Lookup(b.t.Context(), hc, "https://"+s.HTTP, strings.TrimSpace(string(secret)), fleetv1.Default, "echo")
				if err == nil && len(answer.HostEndpoints) == count {
					break
				}
				if time.Now().After(deadline) {
					b.t.Fatalf("%s answers %v, %v; want %d endpoints", s.HTTP, answer, err, count)
				}
			}
		}
	}
	var took []time.Duration
	for range rounds {
		all(1)
		start := time.Now()
		set("false")
		all(0)
		took = append(took, time.Since(start))
		set("true")
	}
	b.report.add(figure{Name: fmt.Sprintf("unhealthy, found by %d probes %v apart: until gone from the last of three schedulers' answers", threshold, period), Unit: "ms",
		Measured: spreadOf(milliseconds(took)), Goal: &goal{AtMost: float64((threshold*period + 200*time.Millisecond).Milliseconds())}, N: rounds})
}

// round is one change, on its way to all watches.
type round struct {
	target uint64 // the index from which on an answer has it
	left   atomic.Int64
	first  atomic.Int64 // when it came first, nanoseconds since start
	start  time.Time
	done   chan struct{}
}

// openWatches is a scheduler with open watches.
type openWatches struct {
	b       *bench
	s       *secured
	token   string
	current atomic.Pointer[round]
	index   atomic.Uint64 // the newest
}

// came notes what a watch has received; last is the round that it has had.
func (w *openWatches) came(index uint64, last *round) *round {
	for {
		newest := w.index.Load()
		if index <= newest || w.index.CompareAndSwap(newest, index) {
			break
		}
	}
	r := w.current.Load()
	if r == last || index < r.target {
		return last
	}
	r.first.CompareAndSwap(0, int64(time.Since(r.start)))
	if r.left.Add(-1) == 0 {
		close(r.done)
	}
	return r
}

func newRound(target uint64) *round {
	r := &round{target: target, start: time.Now(), done: make(chan struct{})}
	r.left.Store(watches)
	return r
}

func (w *openWatches) wait(r *round, what string) {
	w.b.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		w.b.t.Fatalf("%s: %d of %d watches have not got it", what, r.left.Load(), watches)
	}
}

// measure opens watches with open, which are to call came, and reports on them.
func (b *bench) measure(kind string, kib float64, open func(ctx context.Context, w *openWatches, number int) error) {
	s := b.newSecured(1)
	secret, err := os.ReadFile(s.AdminToken())
	b.must(err)
	w := &openWatches{b: b, s: s, token: strings.TrimSpace(string(secret))}
	p := s.All[0]
	s.join(0, lookupNodes)
	b.must(s.agents.add(0, lookupNodes))
	s.deploy("echo", lookupNodes)
	flaps := b.newFlapper(p.Client, s.agents, "echo")
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	time.Sleep(settleTime)
	without, _, err := memory(p.Pid())
	b.must(err)
	opened := newRound(0)
	w.current.Store(opened)
	b.must(each(0, watches, func(number int) error { return open(ctx, w, number) }))
	w.wait(opened, "the first answer")
	time.Sleep(2 * settleTime)
	with, _, err := memory(p.Pid())
	b.must(err)
	what := fmt.Sprintf("%d watches over %s: ", watches, kind)
	b.report.add(figure{Name: what + "resident memory of each", Unit: "KiB", Measured: one(float64(with-without) / 1024 / watches), Goal: &goal{AtMost: kib}, N: watches})
	var last, between []time.Duration
	for range watchRounds {
		r := newRound(w.index.Load() + 1)
		w.current.Store(r)
		b.must(flaps.flap())
		w.wait(r, "a change")
		took := time.Since(r.start)
		last, between = append(last, took), append(between, took-time.Duration(r.first.Load()))
	}
	b.report.add(figure{Name: what + "from the agent's report of a change until the last has it", Unit: "ms", Measured: spreadOf(milliseconds(last)), Goal: &goal{AtMost: 250}, N: watchRounds})
	b.report.add(figure{Name: what + "from the first that has a change to the last", Unit: "ms", Measured: spreadOf(milliseconds(between)), N: watchRounds})
}

func (b *bench) watchesHTTPS() {
	var conns sync.Map
	defer conns.Range(func(_, conn any) bool { _ = conn.(net.Conn).Close(); return true })
	b.measure("HTTPS, a connection each", 40, func(ctx context.Context, w *openWatches, number int) error {
		p := w.s.All[0]
		conn, err := (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: w.s.roots}}).DialContext(ctx, "tcp", p.HTTP)
		if err != nil {
			return err
		}
		conns.Store(number, conn)
		base := "https://" + p.HTTP
		if _, err := fmt.Fprintf(conn, "GET %s&watch=true HTTP/1.1\r\nHost: %s\r\nX-Auth-Token: %s\r\n\r\n",
			strings.TrimPrefix(client.LookupURL(base, fleetv1.Default, "echo"), base), p.HTTP, w.token); err != nil {
			return err
		}
		go func() { // ends with its connection
			var last *round
			lines := bufio.NewReaderSize(conn, 1<<10)
			for {
				line, _, err := lines.ReadLine()
				if err != nil {
					return
				}
				if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
					index, err := strconv.ParseUint(string(id), 10, 64)
					if err != nil {
						b.t.Errorf("a watch got %q", line)
						return
					}
					last = w.came(index, last)
				}
			}
		}()
		return nil
	})
}

func (b *bench) watchesGRPC() {
	var dial sync.Once
	var conn *grpc.ClientConn
	var failed error
	defer func() { b.must(errors.Join(failed, conn.Close())) }()
	b.measure("gRPC, on one connection", 8, func(ctx context.Context, w *openWatches, _ int) error {
		p := w.s.All[0]
		dial.Do(func() {
			conn, failed = grpc.NewClient("passthrough:///"+p.GRPC, grpc.WithTransportCredentials(w.s.transport()))
		})
		if failed != nil {
			return failed
		}
		stream, err := fleetv1.NewLookupServiceClient(conn).Watch(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+w.token), &fleetv1.LookupServiceWatchRequest{Service: "echo"})
		if err != nil {
			return err
		}
		go func() { // ends with ctx
			var last *round
			for {
				m, err := stream.Recv()
				if err != nil {
					return
				}
				if a := m.GetAnswer(); a != nil {
					last = w.came(a.GetIndex(), last)
				}
			}
		}()
		return nil
	})
}
