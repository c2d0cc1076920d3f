package cluster

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// link is a connection to a scheduler that can be cut: then nothing passes either way, and nobody is told.
type link struct {
	net.Listener
	to   string
	cut  atomic.Bool
	work sync.WaitGroup
	mu   sync.Mutex
	all  []net.Conn
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{Listener: listener, to: to}
	l.work.Go(l.serve)
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		l.mu.Lock()
		for _, c := range l.all {
			c.Close() // which ends what is carried
		}
		l.mu.Unlock()
		l.work.Wait()
	})
	return l
}

func (l *link) serve() {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.DialTimeout("tcp", l.to, limit)
		if err != nil {
			from.Close()
			continue
		}
		l.mu.Lock()
		l.all = append(l.all, from, to)
		l.mu.Unlock()
		l.work.Go(func() { l.carry(to, from) })
		l.work.Go(func() { l.carry(from, to) })
	}
}

// carry drops what comes while the link is cut. A stream that has lost a byte is of no use any more, so it is not
// carried on when the link is back: both ends find out by themselves.
func (l *link) carry(to, from net.Conn) {
	defer to.Close()
	buf, broken := make([]byte, 32<<10), false
	for {
		n, err := from.Read(buf)
		if broken = broken || l.cut.Load(); !broken && n > 0 {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// cutFleet is a fleet of two nodes whose links can be cut.
func cutFleet(t *testing.T) (f *fleet, links map[string]*link) {
	links = map[string]*link{}
	f = startFleetWith(t, 2, "", func(cfg *agent.Config) {
		if links[cfg.NodeName] == nil {
			links[cfg.NodeName] = newLink(t, cfg.Schedulers[0])
		}
		cfg.Schedulers = []string{links[cfg.NodeName].Addr().String()}
	})
	return f, links
}

func (f *fleet) deployWith(name string, policy *fleetv1.OnDisconnect) *fleetv1.Instance {
	f.t.Helper()
	_, err := f.Client.Services.DeployService(f.ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name, Project: "default"},
		Spec: &fleetv1.ServiceSpec{Pool: Pool, GracePeriodSeconds: proto.Int32(1), OnDisconnect: policy,
			Versions: []*fleetv1.ServiceVersion{{Model: Model, Flavor: Flavor, Instances: 1}}},
	}})
	f.must(err)
	return f.running(name)[0]
}

// An instance that is not kept is stopped by its own agent, which reaches nobody, before its replacement starts: it
// never runs twice.
func TestAFencedInstanceNeverRunsTwice(t *testing.T) {
	f, links := cutFleet(t)
	first := f.deployWith("fenced", &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(1), Keep: proto.Bool(false)})
	node := first.GetSpec().GetNode()
	links[node].cut.Store(true)
	began := time.Now()
	var stopped, replaced time.Duration
	f.within("the instance is replaced on the other node", func() bool {
		all := f.containers()
		if len(all) > 1 {
			t.Fatalf("after %s it runs twice: %v", time.Since(began), all)
		}
		if len(all) == 0 && stopped == 0 {
			stopped = time.Since(began)
		}
		if _, first := all[node+"/"+first.GetMeta().GetId()+"-1"]; len(all) == 1 && !first {
			replaced = time.Since(began)
		}
		return replaced > 0
	})
	if stopped == 0 {
		t.Error("it was never seen stopped")
	}
	t.Logf("stopped after %s, replaced after %s", stopped.Round(100*time.Millisecond), replaced.Round(100*time.Millisecond))
	f.running("fenced")
	links[node].cut.Store(false)
	f.WaitNodeState(node, fleetv1.NodeReady)
	f.WaitService("fenced", "to have one instance", func(r *fleetv1.WatchServiceResponse) bool { return len(r.GetInstances()) == 1 })
	if all := f.containers(); len(all) != 1 {
		t.Errorf("containers %v", all)
	}
}

// One that is kept runs on, in the same process, for as long as its node is cut off; its endpoint goes and comes back.
func TestAKeptInstanceOutlivesACut(t *testing.T) {
	f, links := cutFleet(t)
	first := f.deployWith("kept", &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(3600)})
	node, before := first.GetSpec().GetNode(), f.containers()
	links[node].cut.Store(true)
	f.WaitNodeState(node, fleetv1.NodeUnreachable)
	if n := len(f.endpoints("kept")); n != 0 {
		t.Errorf("%d endpoints of a node that is cut off", n)
	}
	links[node].cut.Store(false)
	f.running("kept")
	f.within("its endpoint is back", func() bool { return len(f.endpoints("kept")) == 1 })
	for id, pid := range f.containers() {
		if before[id] != pid {
			t.Errorf("containers were %v, now %s has the process %d", before, id, pid)
		}
	}
}
