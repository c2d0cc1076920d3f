package client_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// flakyFlavors fails the first calls of each method.
type flakyFlavors struct {
	fleetv1.UnimplementedFlavorServiceServer
	reads, writes atomic.Int32
	auth          atomic.Value
	failReads     int32
	writeError    func(context.Context) error
}

func (f *flakyFlavors) ListFlavors(ctx context.Context, _ *fleetv1.ListFlavorsRequest) (*fleetv1.ListFlavorsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	f.auth.Store(strings.Join(md.Get("authorization"), ","))
	if f.reads.Add(1) <= f.failReads {
		return nil, status.Error(codes.Unavailable, "no leader")
	}
	return &fleetv1.ListFlavorsResponse{}, nil
}

func (f *flakyFlavors) CreateFlavor(ctx context.Context, _ *fleetv1.CreateFlavorRequest) (*fleetv1.CreateFlavorResponse, error) {
	f.writes.Add(1)
	return nil, f.writeError(ctx)
}

func serve(t *testing.T, f *flakyFlavors) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	fleetv1.RegisterFlavorServiceServer(s, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String(), s.Stop
}

func dial(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestReadsAreRetriedAndCarryTheToken(t *testing.T) {
	f := &flakyFlavors{failReads: 2}
	addr, _ := serve(t, f)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, client.Config{Addr: addr, TokenFile: file})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Flavors.ListFlavors(ctx, &fleetv1.ListFlavorsRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := f.reads.Load(); got != 3 {
		t.Errorf("the read was tried %d times, want 3", got)
	}
	if got := f.auth.Load(); got != "Bearer s3cret" {
		t.Errorf("authorization = %q", got)
	}
}

func TestWritesAreNotRetried(t *testing.T) {
	f := &flakyFlavors{writeError: func(context.Context) error { return status.Error(codes.Unavailable, "no leader") }}
	addr, _ := serve(t, f)
	c := dial(t, client.Config{Addr: addr})
	ctx, attempt := client.Track(context.Background())
	_, err := c.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{})
	if status.Code(err) != codes.Unavailable || f.writes.Load() != 1 {
		t.Fatalf("err %v after %d calls, want Unavailable after 1", err, f.writes.Load())
	}
	if attempt.Lost() {
		t.Error("an answered call counts as lost")
	}
}

func TestTrackTellsLostFromNeverSent(t *testing.T) {
	f := &flakyFlavors{}
	addr, stop := serve(t, f)
	f.writeError = func(ctx context.Context) error { go stop(); <-ctx.Done(); return ctx.Err() }
	c := dial(t, client.Config{Addr: addr})
	ctx, attempt := client.Track(context.Background())
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := c.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{}); err == nil {
		t.Fatal("no error from a server that went away")
	}
	if !attempt.Lost() {
		t.Error("a call whose connection broke is not lost")
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	c = dial(t, client.Config{Addr: closed})
	ctx, attempt = client.Track(context.Background())
	if _, err := c.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{}); err == nil {
		t.Fatal("no error from a closed port")
	}
	if attempt.Lost() {
		t.Error("a call that never left counts as lost")
	}
}

func TestDialRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		cfg  client.Config
		want string
	}{
		{"plain text to another machine", client.Config{Addr: "192.0.2.1:7400", Token: "x"}, "only sent there over TLS"},
		{"no port", client.Config{Addr: "127.0.0.1"}, "want host:port"},
		{"no token file", client.Config{TokenFile: empty + "x"}, "read the token file"},
		{"empty token file", client.Config{TokenFile: empty}, "is empty"},
		{"no CA file", client.Config{CAFile: empty + "x"}, "read the CA file"},
		{"CA file without certificate", client.Config{CAFile: empty}, "no certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := client.Dial(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Auth-Token") != "t":
			w.WriteHeader(http.StatusUnauthorized)
			w.Write([]byte(`{"error_code":"DROVER.0401","error_msg":"token refused"}`))
		case r.URL.Path == "/v1/default/services/busy/predict/endpoints":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			w.Write([]byte(`slow down`))
		case r.URL.Path == "/v1/default/services/bad/predict/endpoints":
			w.Write([]byte(`<html>`))
		case r.URL.RequestURI() == "/v1/default/services/iris/predict/endpoints?type=host_endpoints":
			w.Write([]byte(`{"host_endpoints":[{"schema":"http","ip":"10.0.0.1","port":30001,"weight":100}],"index":9,"max_age_seconds":3}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	ctx := context.Background()
	got, err := client.Lookup(ctx, srv.Client(), srv.URL+"/", "t", "default", "iris")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.HostEndpoints) != 1 || got.HostEndpoints[0].Port != 30001 || got.MaxAge() != 3*time.Second || got.Index != 9 {
		t.Errorf("answer %+v", got)
	}
	var le *client.LookupError
	if _, err := client.Lookup(ctx, srv.Client(), srv.URL, "x", "default", "iris"); !errors.As(err, &le) || le.Code != "DROVER.0401" {
		t.Errorf("wrong token: %v", err)
	}
	if _, err := client.Lookup(ctx, srv.Client(), srv.URL, "t", "default", "busy"); !errors.As(err, &le) || le.RetryAfter != 7*time.Second {
		t.Errorf("429: %v", err)
	}
	if _, err := client.Lookup(ctx, srv.Client(), srv.URL, "t", "default", "bad"); err == nil || !strings.Contains(err.Error(), "decode") {
		t.Errorf("not JSON: %v", err)
	}
}
