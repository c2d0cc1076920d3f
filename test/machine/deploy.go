package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Deployment is what Deploy makes; zero values mean one instance of the test image with a health check
// each second.
type Deployment struct {
	Name         string
	Instances    int32
	Health       *fleetv1.HealthCheck
	Network      string
	Env          map[string]string
	Port         int32
	FixedPort    bool
	Accel        int32 // fake devices
	Image        string
	Mounts       []*fleetv1.Mount
	OnDisconnect *fleetv1.OnDisconnect // nil: the defaults
}

func (m *Machine) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// Prepare makes the flavor, pool and model of a deployment.
func (m *Machine) Prepare(d Deployment) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	flavor := &fleetv1.FlavorSpec{CpuMillis: 100, MemoryBytes: 64 << 20}
	if d.Accel > 0 {
		flavor.Accelerator = &fleetv1.Accelerator{Count: d.Accel}
	}
	health := d.Health
	if health == nil {
		health = &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/health", PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 2}
	}
	_, err := m.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: d.Name}, Spec: flavor}})
	m.must(err)
	_, err = m.Client.Pools.CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: d.Name},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Nodes: []string{m.Node}}}})
	m.must(err)
	image := d.Image
	if image == "" {
		image = m.Image
	}
	_, err = m.Client.Models.CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: d.Name},
		Spec: &fleetv1.ModelSpec{Image: image, Health: health, Api: &fleetv1.ModelAPI{Port: d.Port, FixedPort: d.FixedPort}}}})
	m.must(err)
}

// Deploy makes a service with all that it needs.
func (m *Machine) Deploy(d Deployment) *fleetv1.Service {
	m.t.Helper()
	m.Prepare(d)
	return m.DeployPrepared(d)
}

// DeployPrepared makes a service with what Prepare made.
func (m *Machine) DeployPrepared(d Deployment) *fleetv1.Service {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	answer, err := m.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: d.Name},
		Spec: &fleetv1.ServiceSpec{Pool: d.Name, Network: d.Network, GracePeriodSeconds: proto.Int32(2), OnDisconnect: d.OnDisconnect, Versions: []*fleetv1.ServiceVersion{
			{Model: d.Name, Flavor: d.Name, Instances: max(d.Instances, 1), Env: d.Env, Mounts: d.Mounts}}},
	}})
	m.must(err)
	return answer.GetService()
}

// DeployRunning deploys, waits until the service runs, and answers its instances.
func (m *Machine) DeployRunning(d Deployment) []*fleetv1.Instance {
	m.t.Helper()
	m.Deploy(d)
	m.WaitService(patience, d.Name, fleetv1.ServiceRunning)
	return m.Instances(d.Name)
}

// Delete deletes a service and waits until it and its instances are gone.
func (m *Machine) Delete(name string) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	_, err := m.Client.Services.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: name})
	m.must(err)
	m.Within(patience, "service "+name+" is gone", func() error {
		if _, err := m.Client.Services.GetService(ctx, &fleetv1.GetServiceRequest{Name: name}); status.Code(err) != codes.NotFound {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

func (m *Machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// Service is the service now.
func (m *Machine) Service(name string) *fleetv1.Service {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	answer, err := m.Client.Services.GetService(ctx, &fleetv1.GetServiceRequest{Name: name})
	m.must(err)
	return answer.GetService()
}

// Instances are the service's instances now.
func (m *Machine) Instances(service string) []*fleetv1.Instance {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	answer, err := m.Client.Instances.ListInstances(ctx, &fleetv1.ListInstancesRequest{Service: service})
	m.must(err)
	return answer.GetInstances()
}

// WaitService waits until the service is in the state.
func (m *Machine) WaitService(limit time.Duration, name, state string) {
	m.t.Helper()
	m.Within(limit, "service "+name+" is "+state, func() error {
		s := m.Service(name).GetStatus()
		if s.GetState() != state {
			return fmt.Errorf("it is %s: %s", s.GetState(), s.GetReason())
		}
		return nil
	})
}

// WaitNode waits until the node is in the state.
func (m *Machine) WaitNode(state string) {
	m.t.Helper()
	m.poll("node "+m.Node+" is "+state, func() error {
		if m.Agent.Exited() {
			m.t.Fatalf("the agent ended:\n%s", m.Agent.Log())
		}
		ctx, cancel := m.context()
		defer cancel()
		answer, err := m.Client.Nodes.GetNode(ctx, &fleetv1.GetNodeRequest{Name: m.Node})
		if err != nil {
			return err
		}
		if got := answer.GetNode().GetStatus().GetState(); got != state {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// Endpoints looks the service's endpoints up over HTTP, as a client in the network would.
func (m *Machine) Endpoints(service string) []client.Endpoint {
	m.t.Helper()
	found, err := m.lookup(service)
	m.must(err)
	return found
}

func (m *Machine) lookup(service string) ([]client.Endpoint, error) {
	ctx, cancel := m.context()
	defer cancel()
	hc, err := client.NewHTTPClient(m.CAFile())
	if err != nil {
		return nil, err
	}
	defer hc.CloseIdleConnections()
	return lookUp(ctx, hc, m.addrs.http, m.AdminToken(), service)
}

func lookUp(ctx context.Context, hc *http.Client, addr, tokenFile, service string) ([]client.Endpoint, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	answer, err := client.Lookup(ctx, hc, "https://"+addr, strings.TrimSpace(string(token)), fleetv1.Default, service)
	if err != nil {
		return nil, err
	}
	return answer.HostEndpoints, nil
}

// WaitEndpoints waits until the look-up answers so many endpoints. A scheduler that has just started may refuse to
// answer at first.
func (m *Machine) WaitEndpoints(limit time.Duration, service string, count int) []client.Endpoint {
	m.t.Helper()
	var found []client.Endpoint
	m.Within(limit, fmt.Sprintf("%d endpoints of %s", count, service), func() error {
		var err error
		if found, err = m.lookup(service); err == nil && len(found) != count {
			err = fmt.Errorf("there are %v", found)
		}
		return err
	})
	return found
}

// Call calls an endpoint's path and answers the body.
func Call(e client.Endpoint, path string, query url.Values) (string, error) {
	u := url.URL{Scheme: "http", Host: e.IP + ":" + strconv.Itoa(e.Port), Path: path, RawQuery: query.Encode()}
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(u.String())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// Events answers the reasons and messages of a service's events and of its instances'.
func (m *Machine) Events(service string) []*fleetv1.Event {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	answer, err := m.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindService, Name: service}})
	m.must(err)
	return answer.GetEvents()
}

// Count is how many of the events have the reason, and words in their message.
func Count(events []*fleetv1.Event, reason, words string) int {
	n := 0
	for _, e := range events {
		if e.GetReason() == reason && strings.Contains(e.GetMessage(), words) {
			n++
		}
	}
	return n
}

// WaitEvent waits until the service has such an event.
func (m *Machine) WaitEvent(limit time.Duration, service, reason, words string) {
	m.t.Helper()
	m.Within(limit, "event "+reason+" of "+service, func() error {
		events := m.Events(service)
		if Count(events, reason, words) > 0 {
			return nil
		}
		var have []string
		for _, e := range events {
			have = append(have, e.GetReason()+": "+e.GetMessage())
		}
		return fmt.Errorf("there are only:\n%s", strings.Join(have, "\n"))
	})
}

// NodeEvents counts the node's events with the reason.
func (m *Machine) NodeEvents(reason string) int {
	m.t.Helper()
	return Count(m.EventsOfNode(), reason, "")
}

// EventsOfNode are the node's.
func (m *Machine) EventsOfNode() []*fleetv1.Event {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	answer, err := m.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindNode, Name: m.Node}})
	m.must(err)
	return answer.GetEvents()
}

// Metric reads a series of the agent's metrics page: the first of that name whose labels have the value. It
// answers -1 when there is none.
func (m *Machine) Metric(name, label string) float64 {
	m.t.Helper()
	resp, err := http.Get("http://" + m.addrs.agent + "/metrics")
	m.must(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	m.must(err)
	for line := range strings.Lines(string(raw)) {
		if series, value, _ := strings.Cut(strings.TrimSpace(line), "} "); strings.HasPrefix(series, name+"{") && strings.Contains(series, `"`+label+`"`) {
			v, err := strconv.ParseFloat(value, 64)
			m.must(err)
			return v
		}
	}
	return -1
}
