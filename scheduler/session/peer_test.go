package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// as is a stream of who has the certificate.
func as(t *testing.T, role, name string) context.Context {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := identity.NewAuthority("c1", time.Now())
	must(err)
	p, err := identity.Prepare(name, nil)
	must(err)
	r, err := identity.ParseRequest(p.CSR)
	must(err)
	issued, _, err := ca.Issue(r, role, time.Now(), time.Hour, nil)
	must(err)
	cert, err := x509.ParseCertificate(issued.GetChain()[0])
	must(err)
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 7},
		AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}})
}

// relayOf is a stream that an agent opens for a relay.
type relayOf struct {
	grpc.ServerStream
	ctx context.Context
	id  string
}

func (r *relayOf) Context() context.Context          { return r.ctx }
func (r *relayOf) Send(*fleetv1.RelayResponse) error { return nil }
func (r *relayOf) Recv() (*fleetv1.RelayRequest, error) {
	return &fleetv1.RelayRequest{RelayId: r.id}, nil
}
func newHub(log *bytes.Buffer) *Hub {
	return New(Config{State: state.New(), Logger: slog.New(slog.NewTextHandler(log, nil))})
}
func refusedFor(log *bytes.Buffer, who, node string) bool {
	line := log.String()
	return strings.Contains(line, "audit=refused") && strings.Contains(line, "who="+who+" from=10.0.0.9:7 node="+node)
}

func TestPeersSpeakForTheirOwnNode(t *testing.T) {
	n1, n2 := as(t, fleetv1.RoleAgent, "n1"), as(t, fleetv1.RoleAgent, "n2")
	var log bytes.Buffer
	h := newHub(&log)
	if err := h.checkPeer(n1, "n1"); err != nil || log.Len() > 0 {
		t.Errorf("its own: %v, %s", err, log.String())
	}
	if err := h.checkPeer(context.Background(), "n1"); err != nil {
		t.Errorf("without TLS: %v", err)
	}
	if err := h.checkPeer(n2, "n1"); status.Code(err) != codes.PermissionDenied || !refusedFor(&log, "agent/n2", "n1") {
		t.Errorf("another's: %v, %s", err, log.String())
	}
	if err := h.checkPeer(as(t, fleetv1.RoleScheduler, "n1"), "n1"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a scheduler of the name: %v", err)
	}

	// Who has learnt the ID of another node's relay neither gets it nor takes it away.
	log.Reset()
	one, err := h.relays.add("secret", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Relay(&relayOf{ctx: n2, id: "secret"}); status.Code(err) != codes.PermissionDenied || !refusedFor(&log, "agent/n2", "n1") {
		t.Errorf("another's relay: %v, %s", err, log.String())
	}
	done := make(chan error, 1)
	go func() { done <- h.Relay(&relayOf{ctx: n1, id: "secret"}) }()
	<-one.opened
	one.Close()
	if err := <-done; err != nil {
		t.Errorf("its own relay: %v", err)
	}
}
