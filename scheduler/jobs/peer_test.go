package jobs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// as is a call of who has the certificate.
func as(t *testing.T, role, name string) context.Context {
	t.Helper()
	ca, err := identity.NewAuthority("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity.Prepare(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := identity.ParseRequest(p.CSR)
	if err != nil {
		t.Fatal(err)
	}
	issued, _, err := ca.Issue(r, role, time.Now(), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(issued.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 7},
		AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}})
}

// TestExchangeOfAnotherNode: an agent speaks for the instances of its own node.
func TestExchangeOfAnotherNode(t *testing.T) {
	lead(t, 1, func(l *leader) {
		synctest.Wait()
		l.instance("i1")
		for _, c := range []struct {
			role, name string
			want       codes.Code
		}{
			{fleetv1.RoleAgent, "n-i1", codes.OK},
			{fleetv1.RoleAgent, "n-i2", codes.PermissionDenied},
			{fleetv1.RoleScheduler, "n-i1", codes.PermissionDenied},
		} {
			if _, err := l.c.ExchangeTask(as(l.t, c.role, c.name), &fleetv1.ExchangeTaskRequest{InstanceId: "i1"}); status.Code(err) != c.want {
				t.Errorf("%s %s: %v, want %v", c.role, c.name, err, c.want)
			}
		}
	})
}
