package health_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/drover-fleet/drover/agent/health"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func target(t *testing.T, address string) health.Target {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return health.Target{IP: a.IP.String(), Port: a.Port}
}

func TestProbeHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health":
		case "/moved":
			http.Redirect(w, r, "/gone", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		check *fleetv1.HealthCheck
		tls   bool
		ok    bool
	}{
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP"}, ok: true},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "health"}, ok: true},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/moved"}, ok: true},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/gone"}},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/slow", TimeoutSeconds: 1}},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Protocol: "https"}, tls: true, ok: true},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP", Protocol: "https"}},
		{check: &fleetv1.HealthCheck{CheckMethod: "HTTP"}, tls: true},
		{check: &fleetv1.HealthCheck{CheckMethod: "SMOKE"}},
		{check: nil, ok: true},
	} {
		server := plain
		if c.tls {
			server = secure
		}
		err := health.Probe(t.Context(), c.check, target(t, server.Listener.Addr().String()))
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.check, err)
		}
	}
}

func TestProbeRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := target(t, l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"HTTP", "TCP", "GRPC", ""} {
		if err := health.Probe(t.Context(), &fleetv1.HealthCheck{CheckMethod: method, TimeoutSeconds: 2}, to); err == nil {
			t.Errorf("%s: a closed port is healthy", method)
		}
	}
}

func TestProbeGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, status := grpc.NewServer(), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(server, status)
	go func() { _ = server.Serve(l) }() // ends with Stop
	defer server.Stop()
	check := &fleetv1.HealthCheck{CheckMethod: "GRPC", Service: "model"}
	if err := health.Probe(t.Context(), check, target(t, l.Addr().String())); err == nil {
		t.Error("an unknown service is healthy")
	}
	status.SetServingStatus("model", grpc_health_v1.HealthCheckResponse_SERVING)
	if err := health.Probe(t.Context(), check, target(t, l.Addr().String())); err != nil {
		t.Error(err)
	}
	status.SetServingStatus("model", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := health.Probe(t.Context(), check, target(t, l.Addr().String())); err == nil {
		t.Error("a service that doesn't serve is healthy")
	}
}

func TestProbeExec(t *testing.T) {
	check := &fleetv1.HealthCheck{CheckMethod: "EXEC", Command: []string{"check"}}
	for _, c := range []struct {
		code uint32
		err  error
	}{{0, nil}, {1, nil}, {0, errors.New("no container")}} {
		err := health.Probe(t.Context(), check, health.Target{Exec: func(context.Context, []string) (uint32, error) { return c.code, c.err }})
		if (err == nil) != (c.code == 0 && c.err == nil) {
			t.Errorf("code %d, %v: %v", c.code, c.err, err)
		}
	}
}

// TestWatch checks when changes are told, under a clock of its own.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var code atomic.Uint32
		code.Store(1)
		var probes atomic.Int32
		to := health.Target{Exec: func(context.Context, []string) (uint32, error) {
			probes.Add(1)
			return code.Load(), nil
		}}
		check := &fleetv1.HealthCheck{CheckMethod: "EXEC", Command: []string{"c"}, PeriodSeconds: 10, FailureThreshold: 3}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		results := make(chan health.Result, 10)
		go health.Watch(ctx, check, to, false, func(r health.Result) { results <- r })
		expect := func(when string, n int, healthy bool) {
			t.Helper()
			synctest.Wait()
			if len(results) != n {
				t.Fatalf("%s: %d results, want %d", when, len(results), n)
			}
			if n > 0 {
				if r := <-results; r.Healthy != healthy || (r.Reason == "") != healthy {
					t.Fatalf("%s: %+v", when, r)
				}
			}
		}
		time.Sleep(time.Second)
		if n := probes.Load(); n < 10 {
			t.Errorf("%d probes in the first second, want many", n)
		}
		time.Sleep(28 * time.Second)
		expect("before three periods", 0, false)
		time.Sleep(3 * time.Second)
		expect("after three periods", 1, false)
		code.Store(0)
		time.Sleep(10 * time.Second)
		expect("recovered", 1, true)
		code.Store(1)
		time.Sleep(25 * time.Second)
		expect("two failures", 0, false)
		time.Sleep(10 * time.Second)
		expect("three failures", 1, false)
		code.Store(0)
		time.Sleep(10 * time.Second)
		expect("recovered again", 1, true)
	})
}
