package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/state"
)

type identityServer struct {
	*API
	fleetv1.UnimplementedIdentityServiceServer
}

// Bounds of join tokens.
const (
	defaultTokenLifetime = time.Hour
	maxTokenLifetime     = 30 * 24 * time.Hour
	maxTokenUses         = 10_000
	maxJoinTokens        = 1_000
	// keepExpired is how long an expired token is still told apart from an unknown one.
	keepExpired = 24 * time.Hour
)

func (s *identityServer) CreateJoinToken(ctx context.Context, req *fleetv1.CreateJoinTokenRequest) (*fleetv1.CreateJoinTokenResponse, error) {
	if s.cfg.Identity == nil {
		return nil, s.insecure()
	}
	token := &fleetv1.JoinToken{Role: req.GetRole(), MaxUses: req.GetMaxUses(), Node: req.GetNode()}
	lifetime := time.Duration(req.GetLifetimeSeconds()) * time.Second
	var v violations
	if token.Role == "" {
		token.Role = fleetv1.RoleAgent
	}
	if token.Role != fleetv1.RoleAgent && token.Role != fleetv1.RoleScheduler {
		v.add("role", "%q is neither %s nor %s", token.Role, fleetv1.RoleAgent, fleetv1.RoleScheduler)
	}
	if req.GetLifetimeSeconds() == 0 {
		lifetime = defaultTokenLifetime
	}
	v.between("lifetime_seconds", req.GetLifetimeSeconds(), 0, int64(maxTokenLifetime/time.Second))
	if token.MaxUses == 0 {
		token.MaxUses = 1
	}
	v.between("max_uses", int64(token.MaxUses), 1, maxTokenUses)
	if token.Node != "" {
		if err := identity.CheckName(token.Node); err != nil {
			v.add("node", "%v", err)
		}
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	resp := &fleetv1.CreateJoinTokenResponse{Schedulers: s.cfg.Identity.Schedulers()}
	name, secret := strings.ToLower(rand.Text()[:10]), rand.Text()+rand.Text()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		if len(view.Cluster().GetRoots()) == 0 {
			return nil, refuse(codes.Unavailable, "the cluster has no CA yet: try again in a moment")
		}
		write := &fleetv1.Write{}
		all := view.JoinTokens()
		for _, old := range all {
			if old.GetExpireTime().AsTime().Add(keepExpired).Before(now) {
				write.Mutations = append(write.Mutations, state.Delete(old.GetMeta().GetRevision(), joinTokenKey(old)))
			}
		}
		if len(all)-len(write.GetMutations()) >= maxJoinTokens {
			return nil, refuse(codes.ResourceExhausted, "there are %d join tokens, and no more are allowed: revoke some", maxJoinTokens)
		}
		made := proto.CloneOf(token)
		made.Meta = newMeta(ctx, &fleetv1.Meta{Name: name}, now)
		made.SecretSha256, made.ExpireTime = auth.Hash(secret), timestamppb.New(now.Add(lifetime))
		write.Mutations = append(write.Mutations, state.Put(0, made))
		resp.Token, resp.Secret = shownToken(made), identity.NewToken(view.Cluster().GetRoots()[0].GetCertificate(), secret).String()
		return write, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "make join token "+name)
	return resp, nil
}

// note writes what an operator has done to identities into the audit.
func (a *API) note(ctx context.Context, what string) {
	a.cfg.Logger.Info("identities are changed", "audit", "done", "what", what, "who", caller(ctx).Name, "from", auth.Address(ctx))
}

func joinTokenKey(t *fleetv1.JoinToken) state.Key {
	return state.Key{Kind: fleetv1.KindJoinToken, Key: t.GetMeta().GetName()}
}

// shownToken leaves out what guessing could be tried with, and the keys of the hosts.
func shownToken(t *fleetv1.JoinToken) *fleetv1.JoinToken {
	t = proto.CloneOf(t)
	t.SecretSha256 = nil
	for _, u := range t.GetUses() {
		u.PublicKeySha256 = nil
	}
	return t
}

func (s *identityServer) ListJoinTokens(context.Context, *fleetv1.ListJoinTokensRequest) (*fleetv1.ListJoinTokensResponse, error) {
	resp := &fleetv1.ListJoinTokensResponse{}
	for _, t := range s.view().JoinTokens() {
		resp.Tokens = append(resp.Tokens, shownToken(t))
	}
	return resp, nil
}

func (s *identityServer) RevokeJoinToken(ctx context.Context, req *fleetv1.RevokeJoinTokenRequest) (*fleetv1.RevokeJoinTokenResponse, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		var names []string
		for _, t := range view.JoinTokens() {
			if t.GetMeta().GetName() == req.GetName() {
				return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(t.GetMeta().GetRevision(), joinTokenKey(t))}}, nil
			}
			names = append(names, t.GetMeta().GetName())
		}
		return nil, missing("name", "join token", req.GetName(), names)
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "revoke join token "+req.GetName())
	return &fleetv1.RevokeJoinTokenResponse{}, nil
}

func (s *identityServer) ListCertificates(context.Context, *fleetv1.ListCertificatesRequest) (*fleetv1.ListCertificatesResponse, error) {
	view := s.view()
	return &fleetv1.ListCertificatesResponse{Certificates: view.Certificates(), Roots: authority.RootIDs(view.Cluster())}, nil
}

func (s *identityServer) RevokeNode(ctx context.Context, req *fleetv1.RevokeNodeRequest) (*fleetv1.RevokeNodeResponse, error) {
	if s.cfg.Identity == nil {
		return nil, s.insecure()
	}
	name := req.GetName()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		node := view.Node(name)
		if node.GetMeta().GetName() != name && view.Certificate(fleetv1.RoleAgent, name) == nil {
			return nil, missing("name", "node", name, namesOf(view.Nodes()))
		}
		write := &fleetv1.Write{Mutations: authority.Revoke(view, fleetv1.RoleAgent, name, caller(ctx).Name, now)}
		if node != nil {
			write.Events = []*fleetv1.Event{nodeEvent(node, "NodeRevoked", caller(ctx).Name+" revoked its certificates; what runs there goes on, but it is no longer heard")}
			write.Events[0].Type = fleetv1.EventWarning
		}
		return write, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "revoke node "+name)
	return &fleetv1.RevokeNodeResponse{}, nil
}

// change replaces the cluster object.
func (s *identityServer) change(ctx context.Context, req request, what string, edit func(view state.ReadView, now time.Time) (*fleetv1.Cluster, error)) error {
	if s.cfg.Identity == nil {
		return s.insecure()
	}
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		after, err := edit(view, now)
		if err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(view.Cluster().GetMeta().GetRevision(), after)}}, nil
	})
	if err == nil {
		s.note(ctx, what)
	}
	return err
}

func (s *identityServer) RotateKey(ctx context.Context, req *fleetv1.RotateKeyRequest) (*fleetv1.RotateKeyResponse, error) {
	if s.cfg.Identity == nil {
		return nil, s.insecure()
	}
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		after, err := s.cfg.Identity.Reseal(view.Cluster())
		if err != nil {
			return nil, refuse(codes.FailedPrecondition, "%v", err)
		}
		secrets, err := s.reseal(view)
		if err != nil {
			return nil, refuse(codes.FailedPrecondition, "%v", err)
		}
		return &fleetv1.Write{Mutations: append(secrets, state.Put(view.Cluster().GetMeta().GetRevision(), after))}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "rotate the key-encryption key")
	return &fleetv1.RotateKeyResponse{KeyId: s.view().Cluster().GetRoots()[0].GetKey().GetKeyId()}, nil
}

func (s *identityServer) RotateCA(ctx context.Context, req *fleetv1.RotateCARequest) (*fleetv1.RotateCAResponse, error) {
	what, edit := "rotate the CA", s.beginRotation
	if req.GetFinish() {
		what, edit = "finish the rotation of the CA", finishRotation
	}
	err := s.change(ctx, req, what, func(view state.ReadView, now time.Time) (*fleetv1.Cluster, error) {
		return edit(view, req.GetForce(), now)
	})
	if err != nil {
		return nil, err
	}
	return &fleetv1.RotateCAResponse{Roots: authority.RootIDs(s.view().Cluster())}, nil
}

func (s *identityServer) beginRotation(view state.ReadView, force bool, now time.Time) (*fleetv1.Cluster, error) {
	if len(view.Cluster().GetRoots()) > 1 {
		return nil, refuse(codes.FailedPrecondition, "a rotation of the CA is under way: finish it first, with drover cluster rotate-ca --finish")
	}
	after, err := s.cfg.Identity.Rotate(view.Cluster(), force, now)
	if err != nil {
		return nil, refuse(codes.FailedPrecondition, "%v", err)
	}
	return after, nil
}

func finishRotation(view state.ReadView, force bool, now time.Time) (*fleetv1.Cluster, error) {
	if len(view.Cluster().GetRoots()) < 2 {
		return nil, refuse(codes.FailedPrecondition, "no rotation of the CA is under way: begin one with drover cluster rotate-ca")
	}
	if holders := authority.Holders(view, now); len(holders) > 0 && !force {
		named := strings.Join(holders[:min(len(holders), maxListed)], ", ")
		if more := len(holders) - maxListed; more > 0 {
			named += fmt.Sprintf(" and %d more", more)
		}
		return nil, refuse(codes.FailedPrecondition, "%d members still have certificates of the old root: %s; they renew by themselves when they are connected: wait, revoke them, or lock them out with --force",
			len(holders), named)
	}
	return authority.Finish(view.Cluster()), nil
}
