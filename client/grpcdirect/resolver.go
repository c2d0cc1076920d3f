package grpcdirect

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"

	"github.com/drover-fleet/drover/client/direct"
)

// Scheme of targets, "drover:///project/service".
const Scheme = "drover"

// ServiceConfig selects the policy. Options has it as the default one; whoever gives a configuration of their own
// takes over its loadBalancingConfig.
const ServiceConfig = `{"loadBalancingConfig":[{"` + policyName + `":{}}]}`

// Options are what a connection needs to follow its target's service. Project and Service of the configuration are the
// target's.
func Options(cfg direct.Config) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithResolvers(builder{cfg}), grpc.WithDefaultServiceConfig(ServiceConfig)}
}

// builder is a resolver.Builder.
type builder struct{ cfg direct.Config }

func (builder) Scheme() string { return Scheme }

// OverrideAuthority makes the service's name the calls' authority.
func (builder) OverrideAuthority(t resolver.Target) string {
	_, service, _ := strings.Cut(t.Endpoint(), "/")
	return service
}

func (b builder) Build(t resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	project, service, ok := strings.Cut(t.Endpoint(), "/")
	if !ok || project == "" || service == "" || strings.Contains(service, "/") || t.URL.Host != "" {
		return nil, fmt.Errorf("target %q is not of the form %s:///project/service", t.URL.String(), Scheme)
	}
	cfg := b.cfg
	cfg.Project, cfg.Service = project, service
	s, err := direct.Follow(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{service: s, cc: cc, members: newMembers(), cancel: cancel, done: make(chan struct{})}
	go f.run(ctx)
	return f, nil
}

// follower is a resolver.Resolver.
type follower struct {
	service *direct.Service
	cc      resolver.ClientConn
	members *members
	some    bool // gRPC has addresses
	cancel  context.CancelFunc
	done    chan struct{}
}

func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	for {
		changed := f.service.Changed()
		list, _, err := f.service.Endpoints()
		if !errors.Is(err, direct.ErrUnanswered) {
			f.update(list, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// update tells gRPC of a list, or why there is none.
func (f *follower) update(list direct.Endpoints, err error) {
	var addresses []resolver.Address
	var callable []direct.Endpoint
	for _, e := range list.HostEndpoints {
		if e.Schema != "grpc" {
			err = fmt.Errorf("instance %s speaks %s, not gRPC", e.InstanceID, e.Schema)
			continue
		}
		if e.Weight > 0 {
			callable = append(callable, e)
			addresses = append(addresses, resolver.Address{Addr: e.Address(), Attributes: attributes.New(memberKey{}, member{f.members, identity(e)})})
		}
	}
	f.members.set(callable)
	if len(addresses) > 0 || f.some {
		f.some = len(addresses) > 0
		// What it answers is about addresses that there aren't, which is said better below.
		_ = f.cc.UpdateState(resolver.State{Addresses: addresses})
	}
	switch {
	case len(addresses) > 0:
	case err != nil:
		f.cc.ReportError(err)
	default:
		f.cc.ReportError(direct.ErrNoEndpoint)
	}
}

// ResolveNow does nothing: changes come by themselves.
func (f *follower) ResolveNow(resolver.ResolveNowOptions) {}

func (f *follower) Close() {
	f.cancel()
	<-f.done
	f.service.Close()
}
