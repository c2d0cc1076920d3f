package grpcdirect

import (
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client/direct"
)

const policyName = "drover_direct"

// Register makes the policy known to gRPC. A program calls it once, before it makes connections.
func Register() {
	balancer.Register(base.NewBalancerBuilder(policyName, pickers{}, base.Config{}))
}

// members are the endpoints of one connection's service, and what is known of them.
type members struct {
	balancer *direct.Balancer

	mu   sync.Mutex
	list map[direct.Endpoint]direct.Endpoint // by identity; with its weight
}

func newMembers() *members { return &members{balancer: direct.NewBalancer(nil, nil)} }

func (m *members) set(list []direct.Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = make(map[direct.Endpoint]direct.Endpoint, len(list))
	for _, e := range list {
		m.list[identity(e)] = e
	}
}

// identity is the endpoint without its weight, whose change is no reason to connect anew.
func identity(e direct.Endpoint) direct.Endpoint {
	e.Weight = 0
	return e
}

// member is the attribute of an address, under memberKey.
type member struct {
	of       *members
	identity direct.Endpoint
}

type memberKey struct{}

// pickers is the base balancer's PickerBuilder.
type pickers struct{}

// Build is called at each change of the addresses, and of which connections are ready.
func (pickers) Build(info base.PickerBuildInfo) balancer.Picker {
	p := &picker{connections: make(map[direct.Endpoint]balancer.SubConn, len(info.ReadySCs))}
	var ready []direct.Endpoint
	for sc, i := range info.ReadySCs {
		m, ok := i.Address.Attributes.Value(memberKey{}).(member)
		if !ok {
			return base.NewErrPicker(status.Errorf(codes.Internal, "the policy %s goes with targets %s:///project/service alone", policyName, Scheme))
		}
		p.members = m.of
		if e, there := m.of.current(m.identity); there {
			ready = append(ready, e)
			p.connections[m.identity] = sc
		}
	}
	if len(ready) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	p.members.balancer.Update(ready)
	return p
}

func (m *members) current(identity direct.Endpoint) (direct.Endpoint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.list[identity]
	return e, ok
}

type picker struct {
	members     *members
	connections map[direct.Endpoint]balancer.SubConn // by identity
}

func (p *picker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	pick, ok := p.members.balancer.Pick()
	if !ok {
		return balancer.PickResult{}, status.Error(codes.Unavailable, direct.ErrNoEndpoint.Error())
	}
	sc := p.connections[identity(pick.Endpoint)]
	if sc == nil { // a newer picker has been built, and is about to replace this one
		pick.Done(direct.Abandoned)
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	return balancer.PickResult{SubConn: sc, Done: func(d balancer.DoneInfo) { pick.Done(outcome(d.Err)) }}, nil
}

// outcome of a call: what the caller has ended says nothing, and every other status is an answer but Unavailable.
func outcome(err error) direct.Outcome {
	switch status.Code(err) {
	case codes.Unavailable:
		return direct.Failed
	case codes.Canceled, codes.DeadlineExceeded:
		return direct.Abandoned
	}
	return direct.Succeeded
}
