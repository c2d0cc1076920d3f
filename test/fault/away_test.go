package fault

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// An agent can't reach any scheduler, nor they it. For as long as a service's replace_after says, nothing happens. Beyond, what is
// kept runs on, and what isn't is stopped by its agent before another is placed: its node has never two of it.
func TestAgentIsCutOff(t *testing.T) {
	t.Parallel()
	n := machine.NewNetwork(t, 1)
	images := newRelay(t, n)
	plain := map[string]any{"registry": map[string]any{"plain_http": []string{images.addr}}}
	m := machine.Start(t, machine.Options{Network: n, SchedulerConfig: plain, AgentConfig: plain})
	image := images.to(m.Image)
	after := int32(scaled(20, 60))
	kept := m.DeployRunning(machine.Deployment{Name: "kept", Image: image,
		OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(3600), Keep: proto.Bool(true)}})
	fenced := m.DeployRunning(machine.Deployment{Name: "fenced", Image: image,
		OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: &after, Keep: proto.Bool(false)}})
	before, both := identities(t, kept), identities(t, append(kept, fenced...))
	m.WaitEndpoints(limit, "fenced", 1)

	n.Between(0, machine.Link{Down: true}, 1)
	pause(t.Context(), 10*time.Second)
	if err := identitiesNow(t, both); err != nil {
		t.Errorf("cut off for 10 s: %v", err)
	}
	n.Between(0, machine.Link{}, 1)
	m.WaitNode(fleetv1.NodeReady)
	m.WaitService(limit, "fenced", fleetv1.ServiceRunning)
	m.WaitEndpoints(limit, "fenced", 1)
	if err := identitiesNow(t, both); err != nil {
		t.Errorf("back after 10 s: %v", err)
	}

	n.Between(0, machine.Link{Down: true}, 1)
	lost := time.Now()
	m.Within(time.Duration(after)*time.Second+limit, "the agent stops what isn't kept", func() error {
		if list := m.Containers(); len(list) != 1 {
			return fmt.Errorf("there are %d containers", len(list))
		}
		return nil
	})
	if took := time.Since(lost); took < time.Duration(after-1)*time.Second {
		t.Errorf("stopped after %s, before its time", took)
	}
	pause(t.Context(), scaled(time.Second, 5*time.Minute-time.Since(lost)))
	if err := identitiesNow(t, before); err != nil {
		t.Errorf("what is kept: %v", err)
	}
	n.Between(0, machine.Link{}, 1)
	m.WaitNode(fleetv1.NodeReady)
	m.Within(limit, "another takes the place of what was stopped", func() error {
		if list := m.Containers(); len(list) > 2 {
			t.Fatalf("there are %d containers: one runs twice", len(list))
		}
		all := m.Instances("fenced")
		for _, i := range all {
			if i.GetMeta().GetId() != fenced[0].GetMeta().GetId() && i.GetObserved().GetReady() {
				return nil
			}
		}
		return fmt.Errorf("there are %v", all)
	})
	m.WaitService(limit, "kept", fleetv1.ServiceRunning)
	if err := identitiesNow(t, before); err != nil {
		t.Errorf("what is kept: %v", err)
	}
}

// relay is the machine's registry, which is on loopback, where the schedulers of a network reach it.
type relay struct {
	addr string
	at   atomic.Pointer[url.URL]
}

func newRelay(t *testing.T, n *machine.Network) *relay {
	t.Helper()
	l, err := net.Listen("tcp", n.Hosts[0].Addr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: l.Addr().String()}
	server := &http.Server{ReadHeaderTimeout: limit, Handler: &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(r.at.Load()) }}}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return r
}

// to is an image of the machine's registry as it is called through the relay.
func (r *relay) to(image string) string {
	registry, name, _ := strings.Cut(image, "/")
	r.at.Store(&url.URL{Scheme: "http", Host: registry})
	return r.addr + "/" + name
}
