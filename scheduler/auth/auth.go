package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Caller is who makes a call.
type Caller struct {
	Name    string // of the token or app, access key; "ROLE/NAME" of a certificate
	User    string // who is behind it; the name where no user is
	Role    string // in Project: one of Roles, or fleetv1.RoleAgent or RoleScheduler
	Project string // that the call is about: the one that its request names, else the credential's own
	Account string // that the user belongs to
	Scopes  string // what may be done in other projects: "PROJECT=ROLE", separated by spaces
	From    string // "host:port" of who called another scheduler, which passes it on; empty otherwise
}

type callerKey struct{}

// NewContext adds the caller.
func NewContext(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// FromContext answers the caller that an interceptor put in; ok is false where none did.
func FromContext(ctx context.Context) (c Caller, ok bool) {
	c, ok = ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// NewSecret makes the secret of a new token.
func NewSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return "drover-" + base64.RawURLEncoding.EncodeToString(b[:])
}

// Hash is what the store keeps of a secret.
func Hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Config is what interceptors go by.
type Config struct {
	// Authenticator knows who shows which credential.
	Authenticator *Authenticator
	// Secure says that the listener has TLS: nodes are known by their certificates, not by a token.
	Secure bool
	Logger *slog.Logger
}

// Interceptors authenticate and authorise gRPC calls.
type Interceptors struct {
	cfg     Config
	methods map[string]access
}

// NewInterceptors makes them.
func NewInterceptors(cfg Config) *Interceptors { return &Interceptors{cfg, methods()} }

const healthPrefix = "/grpc.health.v1.Health/"

// refusal is why a call isn't let in.
type refusal struct {
	who  string
	code codes.Code
	why  string
}

// admit finds out who calls, and whether that one may make the request. A stream's has not come yet: for a method that is
// about a project it is nil, and allow looks at it.
func (i *Interceptors) admit(ctx context.Context, method string, req any) (context.Context, error) {
	a := i.accessTo(method)
	if a.role == "" {
		return ctx, nil
	}
	caller, who, no := i.caller(ctx, method, a)
	if no == nil && (a.project == "" || req != nil) {
		caller, no = authorise(caller, who, method, a, req)
	}
	if no == nil {
		return NewContext(ctx, caller), nil
	}
	return ctx, i.refused(ctx, method, no)
}

// allow is admit for the first request of a stream.
func (i *Interceptors) allow(ctx context.Context, method string, req any) (context.Context, error) {
	c, _ := FromContext(ctx)
	c, no := authorise(c, fmt.Sprintf("%q", c.Name), method, i.accessTo(method), req)
	if no != nil {
		return ctx, i.refused(ctx, method, no)
	}
	return NewContext(ctx, c), nil
}

// refused tells the audit of a refusal, and answers it.
func (i *Interceptors) refused(ctx context.Context, method string, no *refusal) error {
	level := slog.LevelWarn
	if no.who == "" || no.code == codes.Unavailable {
		level = slog.LevelDebug
	}
	i.cfg.Logger.Log(ctx, level, "a call is refused", "audit", "refused", "who", no.who, "from", Address(ctx), "method", method, "error", no.why)
	return status.Error(no.code, no.why)
}

// Address is where a call comes from, for the audit: where the caller is, also when another scheduler passes it on.
func Address(ctx context.Context) string {
	if c, ok := FromContext(ctx); ok && c.From != "" {
		return c.From
	}
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}

// caller finds out who calls, and what to call him in errors.
func (i *Interceptors) caller(ctx context.Context, method string, a access) (_ Caller, who string, _ *refusal) {
	member, isMember := identity.PeerOf(ctx)
	if isMember {
		who = member.String()
	}
	forwarded, err := forwardedCaller(ctx)
	switch {
	case err != nil:
		return Caller{}, who, &refusal{cmp.Or(who, "unknown"), codes.InvalidArgument, err.Error()}
	case forwarded != nil && member.Role != fleetv1.RoleScheduler:
		return Caller{}, who, &refusal{cmp.Or(who, "unknown"), codes.PermissionDenied,
			fmt.Sprintf("a caller %q is passed on, which a scheduler alone may do, known by its certificate", forwarded.Name)}
	case forwarded != nil:
		who = fmt.Sprintf("%q, whom %s passes on,", forwarded.Name, member)
		if !slices.Contains(Roles(), forwarded.Role) {
			return Caller{}, who, &refusal{member.String(), codes.PermissionDenied,
				fmt.Sprintf("a scheduler passes on %q of the role %q, which may not call %s", forwarded.Name, forwarded.Role, method)}
		}
		return *forwarded, who, nil
	case isMember:
		c := Caller{Name: who, User: who, Role: member.Role, Project: fleetv1.Default, Account: fleetv1.Default}
		if !covers(c.Role, a.role) {
			return c, who, &refusal{who, codes.PermissionDenied, fmt.Sprintf("the certificate of %s may not call %s", who, method)}
		}
		return c, who, nil
	case a.role == roleMember:
		return Caller{}, who, &refusal{"", codes.Unauthenticated, "a certificate is renewed for who shows it: this caller has none"}
	}
	return i.bySecret(ctx, a)
}

// bySecret is the caller who shows a token.
func (i *Interceptors) bySecret(ctx context.Context, a access) (_ Caller, who string, _ *refusal) {
	c, err := i.cfg.Authenticator.Secret(ctx, bearer(ctx))
	switch {
	case errors.Is(err, ErrNotReady), errors.Is(err, ErrNoKeys):
		return c, "", &refusal{"", codes.Unavailable, err.Error()}
	case errors.Is(err, ErrNoToken):
		return c, "", &refusal{"", codes.Unauthenticated, err.Error()}
	case errors.Is(err, ErrNotGranted):
		return c, "", &refusal{"unknown", codes.PermissionDenied, err.Error()}
	case err != nil:
		return c, "", &refusal{"unknown", codes.Unauthenticated, err.Error()}
	}
	who = fmt.Sprintf("token %q", c.Name)
	if c.Role == fleetv1.RoleAgent && a.role == fleetv1.RoleAgent && i.cfg.Secure {
		return c, who, &refusal{who, codes.PermissionDenied, "this cluster has TLS: a node is known by its certificate, not by a token; give the agent a join file (drover cluster join-token)"}
	}
	return c, who, nil
}

// bearer is the token of the metadata "authorization: Bearer …".
func bearer(ctx context.Context) string {
	for _, v := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		if scheme, secret, ok := strings.Cut(v, " "); ok && strings.EqualFold(scheme, "bearer") {
			return strings.TrimSpace(secret)
		}
	}
	return ""
}

// Arrive is for a call of which the headers alone are there. known says that a valid credential was shown; refuse is nil
// where it was, or the method asks for none, and else tells the audit and answers why. What the caller may do, the
// interceptors find out.
func (i *Interceptors) Arrive(ctx context.Context, method string) (known bool, refuse func() error) {
	if _, isMember := identity.PeerOf(ctx); isMember {
		return true, nil
	}
	a := i.accessTo(method)
	if a.role == "" {
		return false, nil
	}
	if _, _, no := i.caller(ctx, method, a); no != nil {
		return false, func() error { return i.refused(ctx, method, no) }
	}
	return true, nil
}

// Knows says that a method is of our API.
func (i *Interceptors) Knows(method string) bool {
	_, ok := i.methods[method]
	return ok
}

// Unary is the interceptor of unary calls.
func (i *Interceptors) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := i.admit(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// recheckEvery is how often the caller of an open stream is looked at again.
const recheckEvery = 15 * time.Second

// Stream is the interceptor of streams. One whose caller would no longer be let in ends.
func (i *Interceptors) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := i.admit(ss.Context(), info.FullMethod, nil)
	if err != nil {
		return err
	}
	s := &stream{ServerStream: ss}
	if selfChecking(info.FullMethod, i.accessTo(info.FullMethod)) {
		s.ctx.Store(&ctx)
		return i.asking(srv, s, info, next)
	}
	return i.checking(ctx, srv, s, info, next)
}

// checking serves a stream for as long as its caller would be let in.
func (i *Interceptors) checking(ctx context.Context, srv any, s *stream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	s.ctx.Store(&ctx)
	var checking sync.WaitGroup
	defer checking.Wait()
	defer cancel(nil)
	checking.Go(func() { cancel(i.recheck(ctx, s, info.FullMethod)) })
	err := i.asking(srv, s, info, next)
	if cause := context.Cause(ctx); s.ServerStream.Context().Err() == nil && cause != nil {
		return cause
	}
	return err
}

// recheck looks at the caller of a stream again and again, until he wouldn't be let in any more or ctx ends.
func (i *Interceptors) recheck(ctx context.Context, s *stream, method string) error {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var first any
		if asked := s.first.Load(); asked != nil {
			first = *asked
		}
		if err := i.Check(s.ServerStream.Context(), method, first); err != nil {
			return err
		}
	}
}

// Check says why the caller of a method wouldn't be let in now. Without a request only he himself is looked at where the
// method is about a project.
func (i *Interceptors) Check(ctx context.Context, method string, req any) error {
	_, err := i.admit(ctx, method, req)
	return err
}

// selfChecking are streams that are not looked at again here: those of members end with their certificates, and a
// look-up's watch, of which there are thousands, looks for itself.
func selfChecking(method string, a access) bool {
	return slices.Contains([]string{roleMember, fleetv1.RoleAgent, fleetv1.RoleScheduler, ""}, a.role) || method == fleetv1.LookupService_Watch_FullMethodName
}

// asking has the first request of a stream looked at that says which project it is about.
func (i *Interceptors) asking(srv any, s *stream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if i.accessTo(info.FullMethod).project == "" {
		return next(srv, s)
	}
	asking := &askingStream{stream: s, allow: func(req any) error {
		s.first.Store(&req)
		ctx, err := i.allow(s.Context(), info.FullMethod, req)
		s.ctx.Store(&ctx)
		return err
	}}
	err := next(srv, asking)
	if no := asking.refusal.Load(); no != nil {
		return *no // whatever the handler made of it
	}
	return err
}

type stream struct {
	grpc.ServerStream
	ctx   atomic.Pointer[context.Context]
	first atomic.Pointer[any] // request, where it says which project the stream is about
}

func (s *stream) Context() context.Context { return *s.ctx.Load() }

// askingStream is a stream whose first request says which project it is about. Until it has come and is allowed, the
// context has the caller as in his own project.
type askingStream struct {
	*stream
	allow   func(req any) error
	asked   bool // of the goroutine that receives
	refusal atomic.Pointer[error]
}

func (s *askingStream) RecvMsg(m any) error {
	if err := s.stream.RecvMsg(m); err != nil || s.asked {
		return err
	}
	s.asked = true
	err := s.allow(m)
	if err != nil {
		s.refusal.Store(&err)
	}
	return err
}
