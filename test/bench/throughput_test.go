//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

const (
	fleetNodes       = 10_000
	bigInstances     = 50_000
	manyServices     = 1000
	submitters       = 8
	throughputRounds = 5
	manyRounds       = 3               // for each of them: a round of many services is so short that one garbage collection decides it
	quietTime        = 3 * time.Second // for what a round has left behind: events to write, garbage
)

// cluster is schedulers with simulated agents.
type cluster struct {
	b         *bench
	cfgs      []scheduler.Config
	processes []*process
	leader    *process
	agents    *agents
	client    *client.Client
	bootstrap *process // has the tokens
	token     string   // the operator's
}

// newCluster starts so many schedulers and waits until one leads.
func (b *bench) newCluster(schedulers int) *cluster {
	c := &cluster{b: b}
	for range schedulers {
		c.cfgs = append(c.cfgs, schedulerConfig(b.t))
	}
	if schedulers > 1 {
		b.must(join(b.t.Context(), c.cfgs))
	}
	c.start()
	return c
}

// start starts the schedulers and waits until one leads.
func (c *cluster) start() {
	c.processes = nil
	for _, cfg := range c.cfgs {
		p, err := startScheduler(c.b.t, cfg)
		c.b.must(err)
		c.processes = append(c.processes, p)
	}
	var err error
	c.bootstrap, err = leading(c.b.t.Context(), c.processes...)
	c.b.must(err)
	c.token, err = c.bootstrap.token(scheduler.AdminTokenFile)
	c.b.must(err)
	c.find()
}

// stop ends the agents and the schedulers.
func (c *cluster) stop() {
	c.disconnect()
	for _, p := range c.processes {
		c.b.must(p.stop())
	}
}

func (c *cluster) connect(nodes int) {
	secret, err := c.bootstrap.token(scheduler.AgentTokenFile)
	c.b.must(err)
	addrs := []string{c.leader.cfg.GRPCAddr}
	for _, cfg := range c.cfgs {
		addrs = append(addrs, cfg.GRPCAddr)
	}
	c.agents, err = startAgents(addrs, secret, nodes)
	c.b.must(err)
}

func (c *cluster) disconnect() {
	if c.agents != nil {
		c.agents.stop()
		c.agents = nil
	}
}

// prepare makes what services need.
func (c *cluster) prepare() {
	ctx := c.b.t.Context()
	image, err := pushImage(c.b)
	c.b.must(err)
	_, err = c.client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30, Accelerator: &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: 1}}}})
	c.b.must(err)
	_, err = c.client.Pools.CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "bench"},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Selector: map[string]string{"pool": "bench"}}}})
	c.b.must(err)
	_, err = c.client.Models.CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "app"},
		Spec: &fleetv1.ModelSpec{Image: image, Api: &fleetv1.ModelAPI{Port: 8080},
			Health: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/health", PeriodSeconds: 10, TimeoutSeconds: 5}}}})
	c.b.must(err)
}

// pushImage serves an image of nothing as long as the measurement runs.
func pushImage(b *bench) (string, error) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	b.t.Cleanup(srv.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/bench/app:1")
	if err != nil {
		return "", err
	}
	config, err := empty.Image.ConfigFile()
	if err != nil {
		return "", err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	img, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		return "", err
	}
	return ref.String(), remote.Write(ref, img)
}

func (c *cluster) deploy(ctx context.Context, name string, instances int32) error {
	_, err := c.client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name},
		Spec: &fleetv1.ServiceSpec{Pool: "bench", GracePeriodSeconds: proto.Int32(5), Versions: []*fleetv1.ServiceVersion{
			{Model: "app", Flavor: "gpu", Instances: instances}}},
	}})
	return err
}

// await waits until a count has reached want.
func await(ctx context.Context, what string, want int64, every time.Duration, count func() int64) error {
	for n := count(); n < want; n = count() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d are %s: %w", n, want, what, ctx.Err())
		case <-time.After(every):
		}
	}
	return nil
}

// find looks for the scheduler that leads now.
func (c *cluster) find() {
	var err error
	c.leader, err = leading(c.b.t.Context(), c.processes...)
	c.b.must(err)
	c.client, err = client.Dial(client.Config{Addr: c.leader.cfg.GRPCAddr, Token: c.token})
	c.b.must(err)
	c.b.t.Cleanup(func() { _ = c.client.Close() })
}

// empty deletes all services and waits until nothing is left.
func (c *cluster) empty() {
	ctx := c.b.t.Context()
	r, err := c.client.Services.ListServices(ctx, &fleetv1.ListServicesRequest{})
	c.b.must(err)
	for _, s := range r.GetServices() {
		_, err := c.client.Services.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: s.GetMeta().GetName()})
		c.b.must(err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.b.must(await(ctx, "deleted", 0, 50*time.Millisecond, func() int64 {
		r, err := c.client.Services.ListServices(ctx, &fleetv1.ListServicesRequest{})
		c.b.must(err)
		return -int64(len(r.GetServices()))
	}))
}

// pace is what a round of placing has given.
type pace struct {
	placed, acknowledged []float64 // per second
	cost                 []float64 // µs of the leader's processor time for each instance
}

// measure has submit deploy so many instances, and times until their nodes have them, and until what those report
// is acknowledged.
func (c *cluster) measure(p *pace, instances int64, submit func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(c.b.t.Context(), patience)
	defer cancel()
	c.find()
	given, running := c.agents.given.Load(), c.agents.running.Load()
	used, err := cpuTime(c.leader.pid())
	c.b.must(err)
	start := time.Now()
	var placed, acknowledged time.Duration
	var errs [3]error
	var all sync.WaitGroup
	all.Go(func() {
		if errs[0] = submit(ctx); errs[0] != nil {
			cancel()
		}
	})
	all.Go(func() {
		errs[1] = await(ctx, "placed", given+instances, time.Millisecond, c.agents.given.Load)
		placed = time.Since(start)
	})
	errs[2] = await(ctx, "acknowledged", running+instances, time.Millisecond, c.agents.running.Load)
	acknowledged = time.Since(start)
	all.Wait()
	c.b.must(errors.Join(errs[:]...))
	after, err := cpuTime(c.leader.pid())
	c.b.must(err)
	p.placed = append(p.placed, float64(instances)/placed.Seconds())
	p.acknowledged = append(p.acknowledged, float64(instances)/acknowledged.Seconds())
	p.cost = append(p.cost, float64((after-used)/time.Microsecond)/float64(instances))
}

func (c *cluster) report(name string, p *pace, rounds int, g *goal) {
	add := func(what, unit string, values []float64, g *goal) {
		c.b.report.add(figure{Name: name + ": " + what, Unit: unit, Measured: spreadOf(values), Goal: g, N: rounds})
	}
	add("placed and with their nodes", "1/s", p.placed, g)
	add("acknowledged by agents", "1/s", p.acknowledged, nil)
	add("the leader's processor time for one", "µs", p.cost, nil)
	if n := c.agents.lost.Load(); n > 0 {
		c.b.t.Logf("%d sessions ended during the measurement, because another scheduler came to lead", n)
	}
}

// placing measures one big service and many small ones.
func (c *cluster) placing(name string, rounds int) {
	c.prepare()
	start := time.Now()
	c.connect(fleetNodes)
	c.b.report.add(figure{Name: name + fmt.Sprintf(": %d nodes register", fleetNodes), Unit: "1/s", Measured: one(fleetNodes / time.Since(start).Seconds()), N: 1})
	var big, many pace
	for round := range rounds {
		c.measure(&big, bigInstances, func(ctx context.Context) error { return c.deploy(ctx, fmt.Sprint("big-", round), bigInstances) })
		c.empty()
		time.Sleep(quietTime)
		for again := range manyRounds {
			c.measure(&many, manyServices, func(ctx context.Context) error { return c.submit(ctx, fmt.Sprintf("small-%d-%d", round, again)) })
			c.empty()
			time.Sleep(quietTime)
		}
	}
	c.report(fmt.Sprintf("%s: one service of %d instances on %d nodes", name, bigInstances, fleetNodes), &big, rounds, &goal{AtLeast: 20_000})
	c.report(fmt.Sprintf("%s: %d services of one instance from %d submitters", name, manyServices, submitters), &many, rounds*manyRounds, &goal{AtLeast: 5000})
}

// submit deploys many services of one instance, several at a time.
func (c *cluster) submit(ctx context.Context, name string) error {
	errs := make([]error, submitters)
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range submitters {
		all.Go(func() {
			for i := next.Add(1); i <= manyServices && errs[w] == nil; i = next.Add(1) {
				errs[w] = c.deploy(ctx, fmt.Sprintf("%s-%d", name, i), 1)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (b *bench) throughput() {
	c := b.newCluster(1)
	c.placing("one scheduler", throughputRounds)
	c.stop()
}

func (b *bench) threeSchedulers() {
	c := b.newCluster(3)
	c.placing("three schedulers", 1)
	c.stop()
}
