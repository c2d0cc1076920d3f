package session

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// refusing is a scheduler that welcomes nobody.
type refusing struct {
	fleetv1.UnimplementedAgentServiceServer
	message string
	asked   chan time.Time
}

func (r *refusing) Session(grpc.BidiStreamingServer[fleetv1.SessionRequest, fleetv1.SessionResponse]) error {
	r.asked <- time.Now()
	return status.Error(codes.Unavailable, r.message)
}

// serve answers the address that a scheduler listens on.
func (r *refusing) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(insecure.NewCredentials()))
	fleetv1.RegisterAgentServiceServer(s, r)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// However often nobody has answered before, the scheduler that a refusal names is asked soon.
func TestNamedLeaderIsAskedSoon(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	leader := &refusing{message: "not yet", asked: make(chan time.Time, 10)}
	follower := &refusing{message: "not the leader; the leader is at " + leader.serve(t), asked: make(chan time.Time, 10)}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := []string{dead, dead, dead, dead, dead, dead, follower.serve(t)}
	n := &node{}
	c := New(Config{
		Node: "n", TokenFile: token, Schedulers: func() []string { return all },
		Instances: n, Header: func() journal.Header { return journal.Header{} }, Facts: n.Facts, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	var refused, asked time.Time
	for _, at := range []struct {
		of   *refusing
		when *time.Time
	}{{follower, &refused}, {leader, &asked}} {
		select {
		case *at.when = <-at.of.asked:
		case <-ctx.Done():
			t.Fatal("it is not asked")
		}
	}
	if gap := asked.Sub(refused); gap > 2*time.Second { // 2.5 s at least, were it the pause that has grown
		t.Errorf("it is asked %v after it was named", gap)
	}
}
