package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

type credentialServer struct {
	*API
	fleetv1.UnimplementedCredentialServiceServer
}

// Bounds of credentials.
const (
	maxScopes             = 32
	maxCredentialLifetime = 10 * 366 * 24 * time.Hour
)

func elementOf(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// expiry is when what is made now expires; nil for never.
func expiry(now time.Time, seconds int64) *timestamppb.Timestamp {
	if seconds == 0 {
		return nil
	}
	return timestamppb.New(now.Add(time.Duration(seconds) * time.Second))
}

// make is mutate for what makes a credential: one call at a time, so that the caps hold.
func (s *credentialServer) make(ctx context.Context, req request, plan planned) error {
	select {
	case s.making <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.making }()
	return s.mutate(ctx, req, plan)
}

// owner checks whose a new token or key is to be and what it may do, and answers what its write needs.
func (s *credentialServer) owner(view state.ReadView, name string, scopes []*fleetv1.Scope, lifetime int64) ([]*fleetv1.ObjectRef, error) {
	user := view.User(name)
	if user == nil {
		return nil, missing("user", "user", name, namesOf(view.Users()))
	}
	var v violations
	needs := v.scopes("scopes", view, user, scopes)
	v.between("lifetime_seconds", lifetime, 0, int64(maxCredentialLifetime/time.Second))
	if err := v.err(); err != nil {
		return nil, err
	}
	has := 0
	for _, t := range view.Tokens() {
		if t.GetUser() == name {
			has++
		}
	}
	for _, k := range view.Keys() {
		if k.GetUser() == name {
			has++
		}
	}
	if has >= s.cfg.MaxCredentialsPerUser {
		return nil, refuse(codes.ResourceExhausted, "user %q has %d tokens and keys, and no more are allowed (max_credentials_per_user of the schedulers' configuration): revoke some", name, has)
	}
	return append(needs, need(fleetv1.KindUser, name)...), nil
}

// CreateToken makes a token of a name that has none; a revoked one's can be used again.
func (s *credentialServer) CreateToken(ctx context.Context, req *fleetv1.CreateTokenRequest) (*fleetv1.CreateTokenResponse, error) {
	var v violations
	v.name("name", req.GetName(), false)
	if err := v.err(); err != nil {
		return nil, err
	}
	secret, resp := auth.NewSecret(), &fleetv1.CreateTokenResponse{}
	err := s.make(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		needs, err := s.owner(view, req.GetUser(), req.GetScopes(), req.GetLifetimeSeconds())
		if err != nil {
			return nil, err
		}
		if view.Token(req.GetName()) != nil {
			return nil, refuse(codes.AlreadyExists, "token %q exists: revoke it first, or choose another name", req.GetName())
		}
		own := req.GetScopes()[0]
		t := &fleetv1.Token{Meta: newMeta(ctx, &fleetv1.Meta{Name: req.GetName()}, now), SecretSha256: auth.Hash(secret), Role: own.GetRole(),
			User: req.GetUser(), Scopes: req.GetScopes()[1:], ExpireTime: expiry(now, req.GetLifetimeSeconds())}
		t.Meta.Account, t.Meta.Project = view.User(req.GetUser()).GetMeta().GetAccount(), own.GetProject()
		resp.Secret = secret
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, t)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "make token "+req.GetName())
	if t := s.view().Token(req.GetName()); t != nil {
		resp.Token = shownCredential(t)
	}
	return resp, nil
}

// shownCredential leaves out what guessing could be tried with.
func shownCredential(t *fleetv1.Token) *fleetv1.ShownToken {
	return &fleetv1.ShownToken{Meta: t.GetMeta(), User: t.GetUser(), ExpireTime: t.GetExpireTime(), LastUsedTime: t.GetLastUsedTime(),
		Scopes: append([]*fleetv1.Scope{{Project: t.GetMeta().GetProject(), Role: t.GetRole()}}, t.GetScopes()...)}
}

func (s *credentialServer) ListTokens(context.Context, *fleetv1.ListTokensRequest) (*fleetv1.ListTokensResponse, error) {
	resp := &fleetv1.ListTokensResponse{}
	for _, t := range s.view().Tokens() {
		resp.Tokens = append(resp.Tokens, shownCredential(t))
	}
	return resp, nil
}

func (s *credentialServer) RevokeToken(ctx context.Context, req *fleetv1.RevokeTokenRequest) (*fleetv1.RevokeTokenResponse, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		revoked, err := revokeTokens(view, func(t *fleetv1.Token) bool { return t.GetMeta().GetName() == req.GetName() }, now)
		if err == nil && len(revoked) == 0 {
			err = missing("name", "token", req.GetName(), namesOf(view.Tokens()))
		}
		if err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: revoked}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "revoke token "+req.GetName())
	return &fleetv1.RevokeTokenResponse{}, nil
}

// seal encrypts a new secret.
func (a *API) seal(secret, about string) (*fleetv1.SealedKey, error) {
	sealed, err := a.cfg.Sealer.Seal([]byte(secret), about)
	if err != nil {
		return nil, refuse(codes.FailedPrecondition, "the secret can't be encrypted: %v", err)
	}
	return sealed, nil
}

func (s *credentialServer) CreateKey(ctx context.Context, req *fleetv1.CreateKeyRequest) (*fleetv1.CreateKeyResponse, error) {
	access, secret, resp := "AK"+rand.Text()[:18], rand.Text()+rand.Text()[:14], &fleetv1.CreateKeyResponse{}
	sealed, err := s.seal(secret, auth.AboutKey(access))
	if err != nil {
		return nil, err
	}
	err = s.make(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		needs, err := s.owner(view, req.GetUser(), req.GetScopes(), req.GetLifetimeSeconds())
		if err != nil {
			return nil, err
		}
		k := &fleetv1.Key{Meta: newMeta(ctx, &fleetv1.Meta{Name: access}, now), Secret: sealed, User: req.GetUser(), Scopes: req.GetScopes(),
			ExpireTime: expiry(now, req.GetLifetimeSeconds())}
		k.Meta.Account, k.Meta.Project = view.User(req.GetUser()).GetMeta().GetAccount(), req.GetScopes()[0].GetProject()
		resp.Secret = secret
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, k)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	if k := s.view().Key(access); k != nil {
		resp.Key = shownKey(k)
		s.note(ctx, "make key "+access)
	}
	return resp, nil
}

func shownKey(k *fleetv1.Key) *fleetv1.Key {
	k = proto.CloneOf(k)
	k.Secret = nil
	return k
}

func (s *credentialServer) ListKeys(context.Context, *fleetv1.ListKeysRequest) (*fleetv1.ListKeysResponse, error) {
	resp := &fleetv1.ListKeysResponse{}
	for _, k := range s.view().Keys() {
		resp.Keys = append(resp.Keys, shownKey(k))
	}
	return resp, nil
}

func (s *credentialServer) RevokeKey(ctx context.Context, req *fleetv1.RevokeKeyRequest) (*fleetv1.RevokeKeyResponse, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		k := view.Key(req.GetName())
		if k == nil {
			return nil, missing("name", "key", req.GetName(), namesOf(view.Keys()))
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(k.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindKey, Key: req.GetName()})}}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "revoke key "+req.GetName())
	return &fleetv1.RevokeKeyResponse{}, nil
}

// reseal encrypts the secrets of keys, apps and storage keys under the first key of the key file.
func (a *API) reseal(view state.ReadView) (out []*fleetv1.Mutation, err error) {
	again := func(sealed *fleetv1.SealedKey, about string) (*fleetv1.SealedKey, error) {
		secret, err := a.cfg.Sealer.Open(sealed, about)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", about, err)
		}
		return a.cfg.Sealer.Seal(secret, about)
	}
	for _, k := range view.Keys() {
		k = proto.CloneOf(k)
		if k.Secret, err = again(k.GetSecret(), auth.AboutKey(k.GetMeta().GetName())); err != nil {
			return nil, err
		}
		out = append(out, state.Put(k.GetMeta().GetRevision(), k))
	}
	for _, app := range view.Apps("") {
		app = proto.CloneOf(app)
		if app.Secret, err = again(app.GetSecret(), auth.AboutApp(app.GetMeta().GetProject(), app.GetMeta().GetName())); err != nil {
			return nil, err
		}
		out = append(out, state.Put(app.GetMeta().GetRevision(), app))
	}
	for _, k := range view.StorageKeys("") {
		k = proto.CloneOf(k)
		if k.Secret, err = again(k.GetSecret(), AboutStorageKey(k.GetMeta().GetProject(), k.GetMeta().GetName())); err != nil {
			return nil, err
		}
		out = append(out, state.Put(k.GetMeta().GetRevision(), k))
	}
	return slices.Clip(out), nil
}
