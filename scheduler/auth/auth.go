package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Caller is who makes a call.
type Caller struct {
	Name    string // of the token; "ROLE/NAME" of a certificate
	Role    string // fleetv1.RoleAdmin, RoleAgent or RoleScheduler
	Project string // used where a request names none
	Account string
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

// Errors of Authenticate.
var (
	ErrNoToken      = errors.New("no token: send one, --token-file or DROVER_TOKEN names it")
	ErrUnknownToken = errors.New("the token is not known to this cluster: check --token-file or DROVER_TOKEN")
	ErrNotReady     = errors.New("this scheduler knows nothing of the cluster before it has heard a leader: try again in a moment; there is none while a majority of the schedulers is down")
)

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

// CallerOf is the caller who shows this token.
func CallerOf(t *fleetv1.Token) Caller {
	c := Caller{Name: t.GetMeta().GetName(), Role: t.GetRole(), Project: t.GetMeta().GetProject(), Account: t.GetMeta().GetAccount()}
	if c.Project == "" {
		c.Project = fleetv1.Default
	}
	if c.Account == "" {
		c.Account = fleetv1.Default
	}
	return c
}

// Tokens is the part of state.ReadView that authentication needs.
type Tokens interface {
	Cluster() *fleetv1.Cluster
	TokenBySecret(sha256 []byte) *fleetv1.Token
}

var _ Tokens = state.ReadView(nil)

// Authenticate finds the caller who knows the secret. Errors are this package's Err… values.
func Authenticate(tokens Tokens, secret string) (Caller, error) {
	if tokens.Cluster() == nil {
		return Caller{}, ErrNotReady
	}
	if secret == "" {
		return Caller{}, ErrNoToken
	}
	sum := Hash(secret)
	t := tokens.TokenBySecret(sum)
	if t == nil || subtle.ConstantTimeCompare(t.GetSecretSha256(), sum) != 1 {
		return Caller{}, ErrUnknownToken
	}
	return CallerOf(t), nil
}

// Config is what interceptors go by.
type Config struct {
	// View is the store of the moment.
	View func() state.ReadView
	// Secure says that the listener has TLS: nodes are known by their certificates, not by a token.
	Secure bool
	Logger *slog.Logger
}

// Interceptors authenticate and authorise gRPC calls.
type Interceptors struct{ cfg Config }

// NewInterceptors makes them.
func NewInterceptors(cfg Config) *Interceptors { return &Interceptors{cfg} }

const (
	healthPrefix = "/grpc.health.v1.Health/"
	agentPrefix  = "/fleet.v1.AgentService/"
	joinMethod   = "/fleet.v1.JoinService/Join"
	renewMethod  = "/fleet.v1.JoinService/Renew"
)

// schedulerMethods begin what schedulers call for themselves.
func schedulerMethods() []string { return []string{renewMethod, "/fleet.v1.PeerService/"} }

// refusal is why a call isn't let in.
type refusal struct {
	who  string
	code codes.Code
	why  string
}

func (i *Interceptors) admit(ctx context.Context, method string) (context.Context, error) {
	if strings.HasPrefix(method, healthPrefix) || method == joinMethod {
		return ctx, nil
	}
	caller, no := i.caller(ctx, method)
	if no == nil {
		return NewContext(ctx, caller), nil
	}
	level := slog.LevelWarn
	if no.who == "" || no.code == codes.Unavailable {
		level = slog.LevelDebug
	}
	i.cfg.Logger.Log(ctx, level, "a call is refused", "audit", "refused", "who", no.who, "from", Address(ctx), "method", method, "error", no.why)
	return nil, status.Error(no.code, no.why)
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

// caller finds out who calls, and whether that one may call the method.
func (i *Interceptors) caller(ctx context.Context, method string) (Caller, *refusal) {
	member, isMember := identity.PeerOf(ctx)
	forwarded, err := forwardedCaller(ctx)
	switch {
	case err != nil:
		return Caller{}, &refusal{who(member, isMember), codes.InvalidArgument, err.Error()}
	case forwarded != nil && member.Role != fleetv1.RoleScheduler:
		return Caller{}, &refusal{who(member, isMember), codes.PermissionDenied,
			fmt.Sprintf("a caller %q is passed on, which a scheduler alone may do, known by its certificate", forwarded.Name)}
	case forwarded != nil:
		if forwarded.Role != fleetv1.RoleAdmin || !i.operators(method) {
			return Caller{}, &refusal{member.String(), codes.PermissionDenied,
				fmt.Sprintf("a scheduler passes on %q of the role %q, which may not call %s", forwarded.Name, forwarded.Role, method)}
		}
		return *forwarded, nil
	case isMember:
		c := Caller{Name: member.String(), Role: member.Role, Project: fleetv1.Default, Account: fleetv1.Default}
		if !memberMay(member.Role, method) {
			return c, &refusal{member.String(), codes.PermissionDenied, fmt.Sprintf("the certificate of %s may not call %s", member, method)}
		}
		return c, nil
	case method == renewMethod:
		return Caller{}, &refusal{"", codes.Unauthenticated, "a certificate is renewed for who shows it: this caller has none"}
	}
	return i.byToken(ctx, method)
}

func who(p identity.Peer, known bool) string {
	if known {
		return p.String()
	}
	return "unknown"
}

func memberMay(role, method string) bool {
	switch role {
	case fleetv1.RoleAgent:
		return strings.HasPrefix(method, agentPrefix) || method == renewMethod
	case fleetv1.RoleScheduler:
		return slices.ContainsFunc(schedulerMethods(), func(prefix string) bool { return strings.HasPrefix(method, prefix) })
	}
	return false
}

// operators says that a method is of the operators' API.
func (i *Interceptors) operators(method string) bool {
	return !strings.HasPrefix(method, agentPrefix) &&
		!slices.ContainsFunc(schedulerMethods(), func(prefix string) bool { return strings.HasPrefix(method, prefix) })
}

func (i *Interceptors) byToken(ctx context.Context, method string) (Caller, *refusal) {
	caller, err := Authenticate(i.cfg.View(), bearer(ctx))
	switch {
	case errors.Is(err, ErrNotReady):
		return Caller{}, &refusal{"", codes.Unavailable, err.Error()}
	case errors.Is(err, ErrNoToken):
		return Caller{}, &refusal{"", codes.Unauthenticated, err.Error()}
	case err != nil:
		return Caller{}, &refusal{"unknown", codes.Unauthenticated, err.Error()}
	}
	who := fmt.Sprintf("token %q", caller.Name)
	agents := strings.HasPrefix(method, agentPrefix)
	switch {
	case agents && i.cfg.Secure && caller.Role == fleetv1.RoleAgent:
		return caller, &refusal{who, codes.PermissionDenied, "this cluster has TLS: a node is known by its certificate, not by a token; give the agent a join file (drover cluster join-token)"}
	case agents != (caller.Role == fleetv1.RoleAgent), caller.Role != fleetv1.RoleAgent && !(caller.Role == fleetv1.RoleAdmin && i.operators(method)):
		return caller, &refusal{who, codes.PermissionDenied, fmt.Sprintf("token %q has the role %q, which may not call %s", caller.Name, caller.Role, method)}
	}
	return caller, nil
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

// Unary is the interceptor of unary calls.
func (i *Interceptors) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := i.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream is the interceptor of streams.
func (i *Interceptors) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := i.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &stream{ss, ctx})
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }
