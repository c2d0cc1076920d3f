package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Caller is who makes a call.
type Caller struct {
	Name    string // of the token
	Role    string // fleetv1.RoleAdmin or RoleAgent
	Project string // used where a request names none
	Account string
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
	ErrNotReady     = errors.New("the cluster is not bootstrapped yet: try again in a moment")
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

// Interceptors authenticate and authorise gRPC calls against the store of the moment.
type Interceptors struct {
	view func() state.ReadView
}

// NewInterceptors makes interceptors that read tokens from view.
func NewInterceptors(view func() state.ReadView) *Interceptors { return &Interceptors{view} }

const (
	healthPrefix = "/grpc.health.v1.Health/"
	agentPrefix  = "/fleet.v1.AgentService/"
)

func (i *Interceptors) admit(ctx context.Context, method string) (context.Context, error) {
	if strings.HasPrefix(method, healthPrefix) {
		return ctx, nil
	}
	caller, err := Authenticate(i.view(), bearer(ctx))
	switch {
	case errors.Is(err, ErrNotReady):
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if (caller.Role == fleetv1.RoleAgent) != strings.HasPrefix(method, agentPrefix) ||
		(caller.Role != fleetv1.RoleAgent && caller.Role != fleetv1.RoleAdmin) {
		return nil, status.Errorf(codes.PermissionDenied, "token %q has the role %q, which may not call %s",
			caller.Name, caller.Role, method)
	}
	return NewContext(ctx, caller), nil
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
