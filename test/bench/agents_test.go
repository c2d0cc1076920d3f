//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	devicesPerNode = 8
	nodesPerRack   = 16
	sampleEvery    = 5 * time.Second // as agents with vendors' devices do
	connecting     = 64              // at the same time

	// Those of agent/session.
	firstPause, lastPause = 100 * time.Millisecond, 5 * time.Second
	greetingTime          = 10 * time.Second
)

// agents are simulated nodes: each has a connection and a session of its own, heartbeats as often as it is told to,
// samples of its devices, and reports what it is assigned as running, or as gone, at once. Nothing is run. One whose
// session ends looks for the scheduler that leads now, with an agent's pauses.
type agents struct {
	addrs []string
	// credentials of a node's connection; nil for plain text. Set before the first agent.
	credentials func(node string) credentials.TransportCredentials

	ctx       context.Context
	cancel    context.CancelFunc
	work      sync.WaitGroup
	connected atomic.Int64 // sessions
	lost      atomic.Int64 // sessions that ended by themselves

	mu  sync.Mutex
	all map[int]*agent // by number

	// Instances that nodes were given, and that were acknowledged as running.
	given, running atomic.Int64
}

// newAgents has none yet. The token is empty where agents have certificates.
func newAgents(addrs []string, token string) *agents {
	f := &agents{addrs: addrs, all: map[int]*agent{}}
	ctx := context.Background()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// startAgents connects nodes with the numbers from 0 on and returns when all have been welcomed.
func startAgents(addrs []string, token string, nodes int) (*agents, error) {
	f := newAgents(addrs, token)
	if err := f.add(0, nodes); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

// add connects nodes with the numbers from..to-1 and returns when all have been welcomed.
func (f *agents) add(from, to int) error { return each(from, to, f.connect) }

// each calls do for the numbers from..to-1, several at a time, until one fails.
func each(from, to int, do func(number int) error) error {
	errs := make([]error, connecting)
	var next atomic.Int64
	next.Store(int64(from))
	var all sync.WaitGroup
	for w := range connecting {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < to && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// silence has a node say nothing any more, as after a loss of power: its connection stays open.
func (f *agents) silence(number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[number].silent.Store(true)
}

// stop ends all sessions.
func (f *agents) stop() {
	f.cancel()
	f.work.Wait()
}

// agent is one node's.
type agent struct {
	fleet   *agents
	node    string
	number  int
	devices []*fleetv1.Device
	conn    *grpc.ClientConn

	sending    sync.Mutex
	stream     grpc.BidiStreamingClient[fleetv1.SessionRequest, fleetv1.SessionResponse]
	generation atomic.Uint64
	silent     atomic.Bool
	pace       atomic.Pointer[fleetv1.Pace]

	// The receiver's alone.
	next      int // address to try
	instances map[string]*progress
	unacked   map[uint64]*fleetv1.StatusReport
	reports   uint64
}

// progress is how far an instance has got.
type progress struct {
	told, stopping bool // in this session
	running        bool // which is committed
}

// connect opens the first session of a node and keeps one open from then on.
func (f *agents) connect(number int) error {
	a := &agent{fleet: f, number: number, node: nodeName(number), instances: map[string]*progress{}}
	if err := a.open(f.addrs[0]); err != nil { // with so many at once, another scheduler may come to lead
		ctx, cancel := context.WithTimeout(f.ctx, patience)
		defer cancel()
		if err := a.search(ctx, err); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.all[number] = a
	f.mu.Unlock()
	f.work.Go(a.run)
	f.work.Go(a.beat)
	return nil
}

// open opens a session.
func (a *agent) open(addr string) (err error) {
	transport := insecure.NewCredentials()
	if a.fleet.credentials != nil {
		transport = a.fleet.credentials(a.node)
	}
	a.conn, err = grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(transport),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 30 * time.Second}),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return fmt.Errorf("agent of %s: %w", a.node, err)
	}
	conn := a.conn
	greeting := time.AfterFunc(greetingTime, func() { _ = conn.Close() }) // which ends the call
	defer greeting.Stop()
	facts := nodeFacts(a.number)
	stream, err := fleetv1.NewAgentServiceClient(a.conn).Session(a.fleet.ctx)
	if err == nil {
		err = stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: a.node, Facts: facts}}})
	}
	var first *fleetv1.SessionResponse
	if err == nil || errors.Is(err, io.EOF) { // then Recv knows why
		first, err = stream.Recv()
	}
	if err != nil || first.GetWelcome() == nil {
		return errors.Join(fmt.Errorf("welcome of %s: %v: %w", a.node, first, err), a.conn.Close())
	}
	a.fleet.connected.Add(1)
	a.sending.Lock()
	defer a.sending.Unlock()
	a.stream, a.devices = stream, facts.GetDevices()
	w := first.GetWelcome()
	a.pace.Store(&fleetv1.Pace{Number: w.GetPaceNumber(), HeartbeatMillis: w.GetHeartbeatMillis()})
	return nil
}

var leaderHint = regexp.MustCompile(`the leader is at (\S+)$`) // as agents look for it

// run receives, and opens another session when one has ended, until the fleet is stopped or the node is silent.
func (a *agent) run() {
	for {
		ended := a.receive()
		a.fleet.connected.Add(-1)
		_ = a.conn.Close()
		if a.silent.Load() || a.fleet.ctx.Err() != nil {
			return
		}
		a.fleet.lost.Add(1)
		a.unacked = nil
		for _, p := range a.instances {
			p.told, p.stopping = p.running, false
		}
		if a.search(a.fleet.ctx, ended) != nil {
			return
		}
	}
}

// search tries one scheduler after the other after a session has ended, or a try has failed, with err, until one welcomes
// the agent or ctx ends.
func (a *agent) search(ctx context.Context, err error) error {
	addr := ""
	for pause := firstPause; err != nil; {
		now := firstPause
		if found := leaderHint.FindStringSubmatch(status.Convert(err).Message()); found != nil && found[1] != addr {
			addr = found[1]
		} else {
			addr, now, pause = "", pause, min(2*pause, lastPause)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(now/2 + rand.N(now)):
		}
		if addr == "" {
			addr = a.fleet.addrs[a.next%len(a.fleet.addrs)]
			a.next++
		}
		err = a.open(addr)
	}
	return nil
}

func (a *agent) send(m *fleetv1.SessionRequest) error {
	a.sending.Lock()
	defer a.sending.Unlock()
	if a.silent.Load() {
		return nil
	}
	return a.stream.Send(m)
}

// every is how often the agent has been told to beat.
func (a *agent) every() time.Duration {
	return time.Duration(a.pace.Load().GetHeartbeatMillis()) * time.Millisecond
}

// beat sends heartbeats; those of all agents are spread over the interval.
func (a *agent) beat() {
	timer := time.NewTimer(rand.N(a.every()))
	defer timer.Stop()
	var sampled time.Time // at most once in each sampleEvery, and in most of them, however the beats fall
	for {
		select {
		case <-a.fleet.ctx.Done():
			return
		case now := <-timer.C:
			timer.Reset(a.every())
			beat := &fleetv1.Heartbeat{Generation: a.generation.Load(), PaceNumber: a.pace.Load().GetNumber()}
			if at := now.Truncate(sampleEvery); at.After(sampled) {
				sampled = at
				beat.DeviceSamples = a.samples(at)
			}
			_ = a.send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: beat}}) // the receiver sees the session's end
		}
	}
}

func (a *agent) samples(now time.Time) []*fleetv1.DeviceSample {
	out := make([]*fleetv1.DeviceSample, 0, len(a.devices))
	for _, d := range a.devices {
		out = append(out, &fleetv1.DeviceSample{DeviceId: d.GetId(), Time: timestamppb.New(now), Utilisation: proto.Float64(0.5),
			MemoryUsedBytes: proto.Int64(40 << 30), TemperatureCelsius: proto.Float64(50), PowerWatts: proto.Float64(300)})
	}
	return out
}

// receive obeys assignment sets until the session ends.
func (a *agent) receive() error {
	for {
		m, err := a.stream.Recv()
		if err != nil {
			return err
		}
		if set := m.GetAssignments(); set != nil {
			a.generation.Store(set.GetGeneration())
			if err := a.obey(set); err != nil {
				return err
			}
		}
		if pace := m.GetPace(); pace != nil {
			a.pace.Store(pace)
		}
		if ack := m.GetAck(); ack != nil {
			for _, i := range a.unacked[ack.GetId()].GetInstances() {
				a.acknowledged(a.instances[i.GetInstanceId()])
			}
			delete(a.unacked, ack.GetId())
		}
	}
}

// obey reports what is new as running and what is to stop as reaped.
func (a *agent) obey(set *fleetv1.AssignmentSet) error {
	report := &fleetv1.StatusReport{}
	tell := func(id string, o *fleetv1.InstanceObserved) {
		report.Instances = append(report.Instances, &fleetv1.InstanceReport{InstanceId: id, Observed: o})
	}
	listed := make(map[string]*progress, len(set.GetInstances()))
	for port, i := range set.GetInstances() {
		id, sequence := i.GetMeta().GetId(), i.GetObserved().GetSequence()
		p := a.instances[id]
		if p == nil {
			p = &progress{}
			a.fleet.given.Add(1)
		}
		listed[id] = p
		if sequence > 0 { // its acknowledgement may have been lost with a session
			a.acknowledged(p)
		}
		switch stop := i.GetDesired().GetState() == fleetv1.DesiredStopped; {
		case stop && !p.stopping:
			p.stopping = true
			tell(id, &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: sequence + 1})
		case !stop && !p.told && !p.running:
			p.told = true
			tell(id, &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: sequence + 1, Ready: true,
				Health: fleetv1.Healthy, Ip: a.address(), Port: 30000 + int32(port)})
		}
	}
	a.instances = listed
	if len(report.GetInstances()) == 0 {
		return nil
	}
	a.reports++
	report.Id = a.reports
	if a.unacked == nil {
		a.unacked = map[uint64]*fleetv1.StatusReport{}
	}
	a.unacked[report.Id] = report
	return a.send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: report}})
}

// acknowledged counts an instance of which it is committed that it runs, once.
func (a *agent) acknowledged(p *progress) {
	if p != nil && !p.running {
		p.running = true
		a.fleet.running.Add(1)
	}
}

func (a *agent) address() string { return fmt.Sprintf("10.%d.%d.1", a.number>>8, a.number&255) }

func nodeName(number int) string { return fmt.Sprintf("node-%05d", number) }

// nodeFacts are those of a host with eight devices that are linked pair by pair.
func nodeFacts(number int) *fleetv1.NodeFacts {
	facts := &fleetv1.NodeFacts{BootId: fmt.Sprint("boot-", number), Hostname: nodeName(number), Arch: "amd64", Os: "linux",
		Kernel: "6.1.0-25-amd64", CpuMillis: 128_000, MemoryBytes: 1 << 40, DiskBytes: 4 << 40, AdvertiseAddress: fmt.Sprintf("10.%d.%d.1", number>>8, number&255),
		Labels: map[string]string{"pool": "bench", "rack": fmt.Sprintf("rack-%04d", number/nodesPerRack)}, AgentVersion: "bench"}
	for i := range devicesPerNode {
		d := &fleetv1.Device{Id: fmt.Sprintf("GPU-%08x-%04x-4aaa-8bbb-%012x", number, i, number*devicesPerNode+i), Index: int32(i), Vendor: "nvidia", Model: "H100-80GB",
			MemoryBytes: 80 << 30, Health: fleetv1.Healthy, NumaNode: proto.Int32(int32(i / 4)), PciAddress: fmt.Sprintf("0000:%02x:00.0", 0x10+i)}
		for peer := range devicesPerNode {
			if peer != i {
				d.Links = append(d.Links, &fleetv1.DeviceLink{Peer: fmt.Sprintf("GPU-%08x-%04x-4aaa-8bbb-%012x", number, peer, number*devicesPerNode+peer), Kind: "nvlink", Count: 18})
			}
		}
		facts.Devices = append(facts.Devices, d)
	}
	return facts
}
