package auth

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// view is a ReadView of which only tokens and cluster are asked for.
type view struct {
	state.ReadView
	cluster *fleetv1.Cluster
	tokens  []*fleetv1.Token
	users   map[string]*fleetv1.User
}

func interceptors(v *view, secure bool, log *slog.Logger) *Interceptors {
	a := NewAuthenticator(AuthenticatorConfig{View: func() state.ReadView { return v }, Now: func() time.Time { return now }})
	return NewInterceptors(Config{Authenticator: a, Secure: secure, Logger: log})
}

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (v *view) Cluster() *fleetv1.Cluster { return v.cluster }
func (v *view) TokenBySecret(sum []byte) *fleetv1.Token {
	for _, t := range v.tokens {
		if string(t.SecretSha256) == string(sum) {
			return t
		}
	}
	return nil
}

func (v *view) Token(name string) *fleetv1.Token {
	for _, t := range v.tokens {
		if t.GetMeta().GetName() == name {
			return t
		}
	}
	return nil
}
func (v *view) User(name string) *fleetv1.User { return v.users[name] }

func token(name, secret, role, project string) *fleetv1.Token {
	return &fleetv1.Token{Meta: &fleetv1.Meta{Name: name, Project: project}, SecretSha256: Hash(secret), Role: role}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (f fakeStream) Context() context.Context { return f.ctx }

func TestAdmit(t *testing.T) {
	full := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{
		token("root", "s-admin", fleetv1.RoleAdmin, "vision"), token("nodes", "s-agent", fleetv1.RoleAgent, ""),
		token("odd", "s-odd", "auditor", "")}}
	root := Caller{Name: "root", User: "root", Role: "admin", Project: "vision", Account: "default"}
	const list, session = "/fleet.v1.NodeService/ListNodes", "/fleet.v1.AgentService/Session"
	const health, reflect = "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	for _, c := range []struct {
		name, header, method string
		view                 *view
		code                 codes.Code
		caller               Caller
	}{
		{"admin lists", "Bearer s-admin", list, full, codes.OK, root},
		{"scheme in lower case", "bearer s-admin", list, full, codes.OK, root},
		{"admin reflects", "Bearer s-admin", reflect, full, codes.OK, root},
		{"agent connects", "Bearer s-agent", session, full, codes.OK, Caller{Name: "nodes", User: "nodes", Role: "agent", Project: "default", Account: "default"}},
		{"admin as agent", "Bearer s-admin", session, full, codes.PermissionDenied, Caller{}},
		{"agent as admin", "Bearer s-agent", list, full, codes.PermissionDenied, Caller{}},
		{"agent reflects", "Bearer s-agent", reflect, full, codes.PermissionDenied, Caller{}},
		{"unknown role", "Bearer s-odd", list, full, codes.PermissionDenied, Caller{}},
		{"no token", "", list, full, codes.Unauthenticated, Caller{}},
		{"other scheme", "Basic s-admin", list, full, codes.Unauthenticated, Caller{}},
		{"wrong token", "Bearer s-admi", list, full, codes.Unauthenticated, Caller{}},
		{"the hash as token", "Bearer " + string(Hash("s-admin")), list, full, codes.Unauthenticated, Caller{}},
		{"health is open", "", health, full, codes.OK, Caller{}},
		{"reflection is not", "", reflect, full, codes.Unauthenticated, Caller{}},
		{"nobody renews", "Bearer s-admin", fleetv1.JoinService_Renew_FullMethodName, full, codes.Unauthenticated, Caller{}},
		{"joining is open", "", fleetv1.JoinService_Join_FullMethodName, full, codes.OK, Caller{}},
		{"not bootstrapped", "Bearer s-admin", list, &view{}, codes.Unavailable, Caller{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			if c.header != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", c.header))
			}
			i := interceptors(c.view, false, slog.New(slog.DiscardHandler))
			var got Caller
			_, err := i.Unary(ctx, &fleetv1.ListNodesRequest{}, &grpc.UnaryServerInfo{FullMethod: c.method}, func(ctx context.Context, _ any) (any, error) {
				got, _ = FromContext(ctx)
				return nil, nil
			})
			if status.Code(err) != c.code || got != c.caller {
				t.Errorf("unary: got %+v, %v; want %+v, %v", got, err, c.caller, c.code)
			}
			got = Caller{}
			err = i.Stream(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: c.method}, func(_ any, ss grpc.ServerStream) error {
				got, _ = FromContext(ss.Context())
				return nil
			})
			if status.Code(err) != c.code || got != c.caller {
				t.Errorf("stream: got %+v, %v; want %+v, %v", got, err, c.caller, c.code)
			}
		})
	}
}

// A stream that is open ends when its token is revoked; a session of an agent, and what a watch of look-ups does, is not
// this one's business.
func TestStreamsEndWithTheirToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[view]
		now.Store(&view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{
			token("root", "s-admin", fleetv1.RoleAdmin, ""), token("nodes", "s-agent", fleetv1.RoleAgent, "")}})
		a := NewAuthenticator(AuthenticatorConfig{View: func() state.ReadView { return now.Load() }, Now: time.Now})
		i := NewInterceptors(Config{Authenticator: a, Logger: slog.New(slog.DiscardHandler)})
		ctx, hangUp := context.WithCancel(t.Context())
		open := func(method, secret string) <-chan error {
			ended := make(chan error, 1)
			go func() {
				ctx := metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+secret))
				ended <- i.Stream(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, ss grpc.ServerStream) error {
					<-ss.Context().Done()
					return ss.Context().Err()
				})
			}()
			return ended
		}
		events := open(fleetv1.EventService_WatchEvents_FullMethodName, "s-admin")
		others := []<-chan error{open(fleetv1.LookupService_Watch_FullMethodName, "s-admin"), open(fleetv1.AgentService_Session_FullMethodName, "s-agent")}
		time.Sleep(10 * recheckEvery)
		synctest.Wait()
		if len(events) != 0 {
			t.Fatalf("ended: %v", <-events)
		}
		now.Store(&view{cluster: &fleetv1.Cluster{}})
		time.Sleep(recheckEvery)
		synctest.Wait()
		if len(events) != 1 || status.Code(<-events) != codes.Unauthenticated {
			t.Error("the stream goes on after its token was revoked, or doesn't say so")
		}
		if len(others[0])+len(others[1]) != 0 {
			t.Error("a stream that looks for itself was ended")
		}
		hangUp()
		for _, ended := range others {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

func TestSecretsDiffer(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if a == b || len(a) < 40 || string(Hash(a)) == string(Hash(b)) {
		t.Errorf("secrets %q and %q", a, b)
	}
}
