package cluster

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/client/direct"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A program that uses the client library sees no failed call while instances come and go.
func TestDirectCallsWhileAServiceIsScaled(t *testing.T) {
	c := Start(t, Options{Nodes: 2, TLS: true})
	c.Declare()
	c.Deploy("iris", 2)
	c.WaitState("iris", fleetv1.ServiceRunning)
	service, err := direct.Follow(direct.Config{
		Schedulers: []string{"https://" + c.HTTPAddr()}, Service: "iris", CAFile: c.CAFile(), Credentials: direct.Credentials{Token: c.Token},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	ctx, stop := context.WithCancel(t.Context())
	var called sync.Map
	var calls atomic.Int32
	transport := direct.NewTransport(service, direct.TransportConfig{Observer: observed(func(a direct.Attempt) { called.Store(a.Endpoint.InstanceID, true) })})
	defer transport.CloseIdleConnections()
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for ctx.Err() == nil {
				resp, err := transport.RoundTrip(httpGet(t, "http://iris/"))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if calls.Add(1); resp.StatusCode != http.StatusOK {
					t.Errorf("a call was answered with %s", resp.Status)
				}
			}
		})
	}
	for _, n := range []int32{4, 1, 2} {
		scaling, cancel := context.WithTimeout(t.Context(), limit)
		if _, err := c.Client.Services.ScaleService(scaling, &fleetv1.ScaleServiceRequest{Project: "default", Name: "iris", Instances: n}); err != nil {
			t.Fatal(err)
		}
		allCalled := func() bool {
			list, _, _ := service.Endpoints()
			return len(list.HostEndpoints) == int(n) && !slices.ContainsFunc(list.HostEndpoints, func(e direct.Endpoint) bool {
				_, ok := called.Load(e.InstanceID)
				return !ok
			})
		}
		for !allCalled() {
			if !pause(scaling, time.Millisecond) {
				t.Fatalf("the library never calls %d instances", n)
			}
		}
		cancel()
	}
	stop()
	callers.Wait()
	t.Logf("%d calls", calls.Load())
}

type observed func(direct.Attempt)

func (o observed) Observe(a direct.Attempt) { o(a) }

func httpGet(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
