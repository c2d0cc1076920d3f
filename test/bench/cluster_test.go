//go:build bench

package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/machine"
)

const (
	clusterReport     = "cluster"
	failovers         = 30
	silentNodes       = 5
	probedInstances   = 200
	snapshotInstances = 100_000
	streamsWithTLS    = 1000
)

// TestClusterFigures measures several schedulers, and what comes of failures.
func TestClusterFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: clusterReport, title: "Figures of the schedulers"}}
	b.report.describeMachine()
	groups := []struct {
		name    string
		measure func()
	}{
		{"failover", b.failover},
		{"silent node of 1000", func() { b.silence(1000, 5) }},
		{"silent node of 10000", func() { b.silence(fleetNodes, 15) }},
		{"storm", b.storm},
		{"snapshot", b.bigSnapshot},
		{"streams with TLS", b.streams},
	}
	measured := 0
	for _, group := range groups {
		t.Run(group.name, func(t *testing.T) {
			before := len(b.report.Figures)
			b.t = t
			group.measure()
			measured++
			for _, f := range b.report.Figures[before:] {
				t.Log(strings.Join(f.cells(), " | "))
			}
		})
	}
	if measured < len(groups) {
		return // one has failed, or only some were asked for
	}
	if err := b.report.write(); err != nil {
		t.Fatal(err)
	}
	fmt.Print(b.report.text())
}

// quota is a write that changes something each time.
func quota(ctx context.Context, c *client.Client, value int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := c.Quotas.SetQuota(ctx, &fleetv1.SetQuotaRequest{Quota: &fleetv1.Quota{Meta: &fleetv1.Meta{Name: "bench"}, Spec: &fleetv1.QuotaSpec{Instances: &value}}})
	return err
}

// failover measures how a cluster comes to be, and how long it is without a leader when one is killed.
func (b *bench) failover() {
	ctx := b.t.Context()
	start := time.Now()
	s := machine.StartSchedulers(b.t, 1, machine.SchedulersOptions{})
	b.must(quota(ctx, s.All[0].Client, 1))
	b.report.add(figure{Name: "bootstrap: process start → first acknowledged write", Unit: "ms", Measured: one(ms(time.Since(start))), N: 1})
	start = time.Now()
	s.Add()
	b.report.add(figure{Name: "join: process start → the second scheduler serves", Unit: "ms", Measured: one(ms(time.Since(start))), N: 1})
	start = time.Now()
	s.Add()
	s.WaitVoters(3)
	b.report.add(figure{Name: "join: process start of the third → three voters, each 5 s caught up", Unit: "ms", Measured: one(ms(time.Since(start))), N: 1})
	b.emptyService(s.All[0].Client)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var down atomic.Pointer[machine.SchedulerProcess]
	var done, failed atomic.Int64
	var asking sync.WaitGroup
	for _, p := range s.All {
		b.until(func() bool { _, err := p.Endpoints("probe"); return err == nil })
		asking.Go(func() {
			for ctx.Err() == nil {
				excused := down.Load() == p
				_, err := p.Endpoints("probe")
				switch {
				case excused || down.Load() == p || ctx.Err() != nil:
				case err != nil:
					failed.Add(1)
				default:
					done.Add(1)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	var took []float64
	for n := range int64(failovers) {
		leader := s.Leader()
		down.Store(leader)
		others := s.Others(leader)
		start := time.Now()
		leader.Kill()
		for try := 0; quota(ctx, others[try%len(others)].Client, n+2) != nil; try++ {
			time.Sleep(time.Millisecond)
		}
		took = append(took, ms(time.Since(start)))
		leader.Start()
		s.WaitVoters(3)
		b.until(func() bool { _, err := leader.Endpoints("probe"); return err == nil })
		down.Store(nil)
	}
	cancel()
	asking.Wait()
	sorted := slices.Sorted(slices.Values(took))
	b.report.add(figure{Name: "leader killed → next acknowledged write", Unit: "ms", Measured: spreadOf(took), Goal: &goal{AtMost: 1100}, N: failovers})
	b.report.add(figure{Name: "leader killed → next acknowledged write, 99th of 100", Unit: "ms", Measured: one(quantile(sorted, 0.99)), N: failovers})
	b.report.add(figure{Name: fmt.Sprintf("look-ups on the schedulers that are left that failed, of %d", done.Load()+failed.Load()), Measured: one(float64(failed.Load())), Goal: &goal{None: true}, N: failovers})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// emptyService is one without nodes, for look-ups.
func (b *bench) emptyService(cl *client.Client) {
	c := &cluster{b: b, client: cl}
	c.prepare()
	b.must(c.deploy(b.t.Context(), "probe", 1))
}

// silence has nodes fall silent, as after a loss of power, and times until their endpoints are gone from the look-ups of
// all three schedulers.
func (b *bench) silence(nodes int, atMost float64) {
	c := b.newCluster(3, func(cfg *scheduler.Config) { cfg.LeaseDuration = scheduler.DefaultConfig().LeaseDuration })
	defer c.stop()
	c.prepare()
	c.connect(nodes)
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*patience)
	defer cancel()
	b.must(c.deploy(ctx, "probe", probedInstances))
	b.must(await(ctx, "acknowledged", probedInstances, 10*time.Millisecond, c.agents.running.Load))
	time.Sleep(3 * settleTime) // the pace follows the number of nodes
	list, err := c.client.Instances.ListInstances(ctx, &fleetv1.ListInstancesRequest{Service: "probe"})
	b.must(err)
	var numbers []int
	for _, i := range list.GetInstances() {
		n, err := strconv.Atoi(strings.TrimPrefix(i.GetSpec().GetNode(), "node-"))
		b.must(err)
		if numbers = append(numbers, n); len(numbers) == silentNodes {
			break
		}
	}
	start := time.Now()
	for _, n := range numbers {
		c.agents.silence(n)
	}
	var took []float64
	for _, n := range numbers {
		address := (&agent{number: n}).address()
		for _, cfg := range c.cfgs {
			for c.serves(ctx, cfg.HTTPAddr, address) {
				time.Sleep(5 * time.Millisecond)
			}
		}
		took = append(took, time.Since(start).Seconds())
	}
	b.report.add(figure{Name: fmt.Sprintf("%d nodes: silent node → its endpoints gone from every look-up", nodes), Unit: "s", Measured: spreadOf(took), Goal: &goal{AtMost: atMost}, N: len(took)})
}

// serves says whether a look-up still answers an endpoint at the address.
func (c *cluster) serves(ctx context.Context, scheduler, address string) bool {
	answer, err := client.Lookup(ctx, http.DefaultClient, "http://"+scheduler, c.token, fleetv1.Default, "probe")
	c.b.must(err)
	return slices.ContainsFunc(answer.HostEndpoints, func(e client.Endpoint) bool { return e.IP == address })
}

// storm kills the leader of ten thousand agents.
func (b *bench) storm() {
	c := b.newCluster(3)
	defer func() {
		c.disconnect()
		for _, p := range c.processes {
			_ = p.cmd.Process.Kill() // one is dead already
		}
	}()
	c.connect(fleetNodes)
	time.Sleep(settleTime)
	old := c.leader
	start := time.Now()
	b.must(old.cmd.Process.Kill())
	left := slices.DeleteFunc(slices.Clone(c.processes), func(p *process) bool { return p == old })
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*patience)
	defer cancel()
	b.must(await(ctx, "cut off", fleetNodes, time.Millisecond, c.agents.lost.Load))
	b.must(await(ctx, "back", fleetNodes, time.Millisecond, c.agents.connected.Load))
	back := time.Since(start)
	next, err := leading(ctx, left...)
	b.must(err)
	peak, err := kilobytes(fmt.Sprintf("/proc/%d/status", next.pid()), "VmHWM:")
	b.must(err)
	b.report.add(figure{Name: fmt.Sprintf("leader killed → all of %d agents are back with another", fleetNodes), Unit: "s", Measured: one(back.Seconds()), N: 1})
	b.report.add(figure{Name: "the new leader's peak of resident memory then", Unit: "MiB", Measured: one(mib(peak)), N: 1})
}

// bigSnapshot writes and reads the snapshot of a state with many instances.
func (b *bench) bigSnapshot() {
	st := state.New()
	for from := 0; from < snapshotInstances; from += 1000 {
		w := &fleetv1.Write{}
		for i := from; i < from+1000; i++ {
			node := fmt.Sprintf("node-%05d", i/devicesPerNode)
			w.Mutations = append(w.Mutations, state.Put(0, &fleetv1.Instance{
				Meta: &fleetv1.Meta{Id: fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i), Name: fmt.Sprintf("svc-%08x", i), Project: fleetv1.Default, Generation: 1},
				Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: fmt.Sprint("service-", i/1000), ServiceName: "svc", Model: "app", ModelVersion: "0.0.1", CpuMillis: 1000,
					MemoryBytes: 1 << 30, DeviceIds: []string{fmt.Sprintf("GPU-%08x-4aaa-8bbb-%012x", i, i)}, DeviceModels: []string{"H100-80GB"}},
				Desired:  &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
				Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true, Attempt: 1, Sequence: 4, Ip: "10.0.0.1", Port: 30000}}))
		}
		cmd := &fleetv1.Command{Op: &fleetv1.Command_Write{Write: w}}
		cmd.Introduced = state.Introduced(cmd)
		if r, _ := st.Apply(uint64(from/1000+1), cmd); len(r.Rejections) > 0 {
			b.t.Fatal(r.Rejections[0].Detail)
		}
	}
	var file bytes.Buffer
	start := time.Now()
	_, err := st.Snapshot().WriteTo(&file)
	b.must(err)
	what := fmt.Sprintf("%d instances: ", snapshotInstances)
	b.report.add(figure{Name: what + "writing a snapshot", Unit: "s", Measured: one(time.Since(start).Seconds()), N: 1})
	b.report.add(figure{Name: what + "its size", Unit: "MiB", Measured: one(mib(int64(file.Len()))), N: 1})
	start = time.Now()
	restored := state.New()
	b.must(restored.Restore(&file))
	b.report.add(figure{Name: what + "restoring it", Unit: "s", Measured: one(time.Since(start).Seconds()), N: 1})
	if n := len(restored.View().Instances()); n != snapshotInstances {
		b.t.Errorf("%d instances are restored", n)
	}
}

// streams measures the memory of an agent's idle stream with TLS.
func (b *bench) streams() {
	s := machine.StartSchedulers(b.t, 1, machine.SchedulersOptions{})
	p := s.All[0]
	ctx := b.t.Context()
	resp, err := p.Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{Role: fleetv1.RoleAgent, MaxUses: streamsWithTLS})
	b.must(err)
	token, err := identity.ParseToken(resp.GetSecret())
	b.must(err)
	dir := b.t.TempDir()
	keepers := make([]*identity.Keeper, streamsWithTLS)
	b.must(each(0, streamsWithTLS, func(i int) error {
		name := fmt.Sprintf("node-%05d", i)
		k, err := identity.Open(filepath.Join(dir, name), slog.New(slog.DiscardHandler))
		if err == nil {
			err = k.Join(ctx, identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}, fleetv1.RoleAgent, name, nil, nil)
		}
		keepers[i] = k
		return err
	}))
	time.Sleep(settleTime)
	before, _, err := memory(p.Pid())
	b.must(err)
	f := newAgents([]string{p.GRPC}, "")
	defer f.stop()
	f.credentials = func(node string) credentials.TransportCredentials {
		n, _ := strconv.Atoi(strings.TrimPrefix(node, "node-")) // named by us
		return keepers[n].ClientCredentials()
	}
	b.must(f.add(0, streamsWithTLS))
	time.Sleep(settleTime)
	after, _, err := memory(p.Pid())
	b.must(err)
	b.report.add(figure{Name: "memory of an agent's idle stream with TLS, its node's included", Unit: "KiB", Measured: one(float64(after-before) / 1024 / streamsWithTLS), N: streamsWithTLS})
}
