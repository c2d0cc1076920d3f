package auth

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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// certificates of the roles, as a handshake leaves them.
type certificates struct{ agent, scheduler *x509.Certificate }

func newCertificates(t *testing.T) certificates {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := identity.NewAuthority("c", time.Now())
	must(err)
	issue := func(role, name string) *x509.Certificate {
		p, err := identity.Prepare(name, nil)
		must(err)
		r, err := identity.ParseRequest(p.CSR)
		must(err)
		issued, _, err := ca.Issue(r, role, time.Now(), time.Hour, nil)
		must(err)
		c, err := x509.ParseCertificate(issued.GetChain()[0])
		must(err)
		return c
	}
	return certificates{issue(fleetv1.RoleAgent, "n1"), issue(fleetv1.RoleScheduler, "s1")}
}

// from is a call of who has shown the certificate, with metadata.
func from(ctx context.Context, c *x509.Certificate, pairs ...string) context.Context {
	info := credentials.TLSInfo{}
	if c != nil {
		info.State = tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	}
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 7}, AuthInfo: info})
	return metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...))
}

// forwarded is the metadata of a call that is passed on for c.
func forwarded(t *testing.T, c Caller) string {
	t.Helper()
	ctx, err := Forward(NewContext(t.Context(), c))
	if err != nil {
		t.Fatal(err)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	return md.Get(forwardedKey)[0]
}

func TestMembers(t *testing.T) {
	certs := newCertificates(t)
	full := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{
		token("root", "s-admin", fleetv1.RoleAdmin, ""), token("nodes", "s-agent", fleetv1.RoleAgent, "")}}
	const list, session, admin = "/fleet.v1.NodeService/ListNodes", "/fleet.v1.AgentService/Session", "Bearer s-admin"
	eve := Caller{Name: "eve", User: "eva", Role: fleetv1.RoleOperator, Project: "p", Account: "a", Scopes: "q=viewer", From: "10.0.0.1:5"}
	pass := forwarded(t, eve)
	for _, c := range []struct {
		name, method string
		cert         *x509.Certificate
		pairs        []string
		code         codes.Code
		caller       string
	}{
		{"agent has a session", session, certs.agent, nil, codes.OK, "agent/n1"},
		{"agent renews", fleetv1.JoinService_Renew_FullMethodName, certs.agent, nil, codes.OK, "agent/n1"},
		{"agent lists", list, certs.agent, nil, codes.PermissionDenied, ""},
		{"agent lists with an operator's token", list, certs.agent, []string{"authorization", admin}, codes.PermissionDenied, ""},
		{"scheduler renews", fleetv1.JoinService_Renew_FullMethodName, certs.scheduler, nil, codes.OK, "scheduler/s1"},
		{"scheduler lists", list, certs.scheduler, nil, codes.PermissionDenied, ""},
		{"scheduler has a session", session, certs.scheduler, nil, codes.PermissionDenied, ""},
		{"scheduler passes on", list, certs.scheduler, []string{forwardedKey, pass}, codes.OK, "eve"},
		{"scheduler passes on an agent", list, certs.scheduler, []string{forwardedKey, forwarded(t, Caller{Name: "x", Role: fleetv1.RoleAgent})}, codes.PermissionDenied, ""},
		{"scheduler passes a session on", session, certs.scheduler, []string{forwardedKey, pass}, codes.PermissionDenied, ""},
		{"scheduler passes two on", list, certs.scheduler, []string{forwardedKey, pass, forwardedKey, pass}, codes.InvalidArgument, ""},
		{"scheduler passes nonsense on", list, certs.scheduler, []string{forwardedKey, "\xff"}, codes.InvalidArgument, ""},
		{"agent passes on", list, certs.agent, []string{forwardedKey, pass}, codes.PermissionDenied, ""},
		{"agent passes a session on", session, certs.agent, []string{forwardedKey, pass}, codes.PermissionDenied, ""},
		{"operator passes on", list, nil, []string{"authorization", admin, forwardedKey, pass}, codes.PermissionDenied, ""},
		{"nobody passes on", list, nil, []string{forwardedKey, pass}, codes.PermissionDenied, ""},
		{"operator lists", list, nil, []string{"authorization", admin}, codes.OK, "root"},
		{"agent's token has a session", session, nil, []string{"authorization", "Bearer s-agent"}, codes.PermissionDenied, ""},
		{"operator has a session", session, nil, []string{"authorization", admin}, codes.PermissionDenied, ""},
	} {
		var log bytes.Buffer
		i := interceptors(full, true, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, err := i.admit(from(t.Context(), c.cert, c.pairs...), c.method, &fleetv1.ListNodesRequest{})
		got := Caller{}
		if err == nil {
			got, _ = FromContext(ctx)
		}
		if status.Code(err) != c.code || got.Name != c.caller {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if line := log.String(); (err != nil) != (strings.Contains(line, "audit=refused") && strings.Contains(line, "from=10.0.0.9:7") && strings.Contains(line, "method="+c.method)) {
			t.Errorf("%s: the audit says %q", c.name, line)
		}
		if c.caller == "eve" && got != eve {
			t.Errorf("%s: it arrives as %+v", c.name, got)
		}
	}
}

// Whatever services there are, now and later: an agent's certificate reaches those of agents alone.
func TestAgentsReachNothingElse(t *testing.T) {
	certs := newCertificates(t)
	full := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{token("root", "s-admin", fleetv1.RoleAdmin, "")}}
	i := interceptors(full, true, slog.New(slog.DiscardHandler))
	open := map[string]bool{fleetv1.JoinService_Join_FullMethodName: true, fleetv1.JoinService_Renew_FullMethodName: true, "/fleet.v1.AgentService/Session": true, "/fleet.v1.AgentService/Relay": true,
		fleetv1.TaskService_ExchangeTask_FullMethodName: true}
	methods := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.v1", func(f protoreflect.FileDescriptor) bool {
		for s := range f.Services().Len() {
			for m := range f.Services().Get(s).Methods().Len() {
				d := f.Services().Get(s).Methods().Get(m)
				method := "/" + string(d.Parent().FullName()) + "/" + string(d.Name())
				methods++
				for _, pairs := range [][]string{nil, {"authorization", "Bearer s-admin"}, {forwardedKey, forwarded(t, Caller{Name: "root", Role: fleetv1.RoleAdmin})}} {
					_, err := i.admit(from(t.Context(), certs.agent, pairs...), method, nil)
					want := codes.PermissionDenied
					if open[method] && (len(pairs) == 0 || pairs[0] != forwardedKey || method == fleetv1.JoinService_Join_FullMethodName) {
						want = codes.OK
					}
					if status.Code(err) != want {
						t.Errorf("%s with %v: %v, want %v", method, pairs, err, want)
					}
				}
			}
		}
		return true
	})
	if methods < 40 {
		t.Errorf("only %d methods are known", methods)
	}
}

// By its headers alone a call is refused whose caller shows nothing that is valid; what he may do is asked later.
func TestArrive(t *testing.T) {
	certs := newCertificates(t)
	var log bytes.Buffer
	v := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{token("low", "s-low", fleetv1.RoleLookup, "")}}
	in := interceptors(v, true, slog.New(slog.NewTextHandler(&log, nil)))
	const list, join, made = fleetv1.NodeService_ListNodes_FullMethodName, fleetv1.JoinService_Join_FullMethodName, "/made.Up/Method"
	passedOn := forwarded(t, Caller{Name: "root", Role: fleetv1.RoleAdmin})
	for _, c := range []struct {
		name, method string
		cert         *x509.Certificate
		metadata     []string
		known        bool
		code         codes.Code
	}{
		{"nobody", list, nil, nil, false, codes.Unauthenticated},
		{"a wrong token", list, nil, []string{"authorization", "Bearer guess"}, false, codes.Unauthenticated},
		{"a good one, of too little a role", list, nil, []string{"authorization", "Bearer s-low"}, true, codes.OK},
		{"who passes on and is nobody", list, nil, []string{forwardedKey, passedOn, "authorization", "Bearer s-low"}, false, codes.PermissionDenied},
		{"a certificate", list, certs.agent, nil, true, codes.OK},
		{"a certificate, where none is needed", join, certs.agent, nil, true, codes.OK},
		{"nobody, where none is needed", join, nil, nil, false, codes.OK},
		{"nobody, where no method is", made, nil, nil, false, codes.Unauthenticated},
		{"a good token, where no method is", made, nil, []string{"authorization", "Bearer s-low"}, true, codes.OK},
	} {
		log.Reset()
		known, refuse := in.Arrive(from(t.Context(), c.cert, c.metadata...), c.method)
		if known != c.known || (refuse != nil) != (c.code != codes.OK) || log.Len() > 0 {
			t.Errorf("%s: known %v, refused %v, told %q", c.name, known, refuse != nil, log.String())
			continue
		}
		if refuse == nil {
			continue
		}
		if err := refuse(); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", c.name, err, c.code)
		}
		if told := strings.Contains(log.String(), "audit=refused"); told == (c.name == "nobody" || c.method == made) { // these show none
			t.Errorf("%s: told %q", c.name, log.String())
		}
	}
	v.cluster = nil
	if _, refuse := in.Arrive(from(t.Context(), nil, "authorization", "Bearer s-low"), list); refuse == nil || status.Code(refuse()) != codes.Unavailable {
		t.Error("a scheduler that knows nothing yet doesn't say so")
	}
	if !in.Knows(join) || in.Knows(made) {
		t.Error("a method is mistaken")
	}
}

func BenchmarkArrive(b *testing.B) {
	in := interceptors(&view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{token("low", "s-low", fleetv1.RoleLookup, "")}}, true, slog.New(slog.DiscardHandler))
	ctx := from(b.Context(), nil, "authorization", "Bearer s-low")
	for b.Loop() {
		if known, _ := in.Arrive(ctx, fleetv1.LookupService_Get_FullMethodName); !known {
			b.Fatal("refused")
		}
	}
}
