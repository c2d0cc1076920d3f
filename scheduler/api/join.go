package api

import (
	"bytes"
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
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

type joinServer struct {
	*API
	fleetv1.UnimplementedJoinServiceServer
}

// joinCall makes a request a mutation's: a join is told from the one before by its key, not by an ID.
type joinCall struct{ *fleetv1.JoinRequest }

func (joinCall) GetRequestId() string { return "" }

type renewCall struct{ *fleetv1.RenewRequest }

func (renewCall) GetRequestId() string { return "" }

func (s *joinServer) Join(ctx context.Context, req *fleetv1.JoinRequest) (*fleetv1.JoinResponse, error) {
	resp, r, err := s.join(ctx, req)
	s.audit(ctx, "join", fmt.Sprintf("%s/%s", req.GetRole(), r.Name), err)
	return resp, err
}

// audit writes the outcome of a request for a certificate into the audit.
func (a *API) audit(ctx context.Context, what, who string, err error) {
	if err != nil {
		a.cfg.Logger.Warn("no certificate is given", "audit", "refused", "what", what, "who", who, "from", auth.Address(ctx), "error", err)
		return
	}
	a.cfg.Logger.Info("a certificate is given", "audit", "done", "what", what, "who", who, "from", auth.Address(ctx))
}

func (a *API) insecure() *Error {
	return refuse(codes.FailedPrecondition, "this cluster runs without TLS (insecure: true): it has no certificates, and agents use the token in agent.token")
}

func (s *joinServer) join(ctx context.Context, req *fleetv1.JoinRequest) (*fleetv1.JoinResponse, identity.Request, error) {
	if s.cfg.Identity == nil {
		return nil, identity.Request{}, s.insecure()
	}
	r, err := identity.ParseRequest(req.GetCsr())
	if err != nil {
		return nil, r, invalid("csr", "%v", err)
	}
	// One after the other: each use of a token changes the token, and hosts that are set up together call together.
	select {
	case s.joining <- struct{}{}:
		defer func() { <-s.joining }()
	case <-ctx.Done():
		return nil, r, ctx.Err()
	}
	resp := &fleetv1.JoinResponse{}
	err = s.mutate(ctx, joinCall{req}, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		token := joinToken(view, req.GetSecret())
		if token == nil {
			return nil, refuse(codes.Unauthenticated, "the join token is not known to this cluster: it was revoked, or has expired long ago")
		}
		again, err := mayJoin(view, token, req.GetRole(), r, now)
		if err != nil {
			return nil, err
		}
		write := &fleetv1.Write{}
		if !again {
			after := proto.CloneOf(token)
			after.Uses = append(after.Uses, &fleetv1.JoinTokenUse{Name: r.Name, PublicKeySha256: r.PublicKey(), Time: timestamppb.New(now)})
			write.Mutations = append(write.Mutations, state.Put(token.GetMeta().GetRevision(), after))
			if authority.Living(view, req.GetRole(), r.Name, now) != nil { // the token is bound to it
				write.Mutations = append(write.Mutations, authority.Supersede(view, req.GetRole(), r.Name, tokenCaller(token), now))
			}
		}
		cert, err := s.issue(ctx, view, r, req.GetRole(), tokenCaller(token), now, write)
		if err != nil {
			return nil, err
		}
		resp.Certificate = cert
		return write, nil
	})
	if err != nil {
		return nil, r, err
	}
	resp.Trust = s.trust(req.GetRole())
	if req.GetRole() == fleetv1.RoleScheduler {
		resp.KeyId = s.view().Cluster().GetRoots()[0].GetKey().GetKeyId()
	}
	return resp, r, nil
}

func tokenCaller(t *fleetv1.JoinToken) string { return "join-token/" + t.GetMeta().GetName() }

// joinToken finds the token of a secret, or nil.
func joinToken(view state.ReadView, secret string) *fleetv1.JoinToken {
	sum := auth.Hash(secret)
	for _, t := range view.JoinTokens() {
		if subtle.ConstantTimeCompare(t.GetSecretSha256(), sum) == 1 {
			return t
		}
	}
	return nil
}

// mayJoin says why a token doesn't let a host in; again is true for one that it has let in with the same key.
func mayJoin(view state.ReadView, token *fleetv1.JoinToken, role string, r identity.Request, now time.Time) (again bool, err error) {
	name := token.GetMeta().GetName()
	again = slices.ContainsFunc(token.GetUses(), func(u *fleetv1.JoinTokenUse) bool {
		return u.GetName() == r.Name && bytes.Equal(u.GetPublicKeySha256(), r.PublicKey())
	})
	if expired := token.GetExpireTime().AsTime(); !now.Before(expired) {
		return again, refuse(codes.PermissionDenied, "join token %s expired at %s: make another with drover cluster join-token", name, expired.Format(time.RFC3339))
	}
	if token.GetRole() != role {
		return again, refuse(codes.PermissionDenied, "join token %s is for the role %s, not %s", name, token.GetRole(), role)
	}
	if bound := token.GetNode(); bound != "" && bound != r.Name {
		return again, refuse(codes.PermissionDenied, "join token %s is for %q, not for %q", name, bound, r.Name)
	}
	revoked := authority.Revoked(view.Cluster(), role, r.Name)
	if again {
		if revoked.GetUntilUnixNano() >= view.Certificate(role, r.Name).GetIssuedUnixNano() {
			return again, refuse(codes.PermissionDenied, "what join token %s gave to %q is revoked: make another with drover cluster join-token --node %s", name, r.Name, r.Name)
		}
		return again, nil
	}
	if len(token.GetUses()) >= int(token.GetMaxUses()) {
		return again, refuse(codes.PermissionDenied, "join token %s is used up (%d of %d): make another with drover cluster join-token", name, len(token.GetUses()), token.GetMaxUses())
	}
	if token.GetNode() == "" {
		if living := authority.Living(view, role, r.Name, now); living != nil {
			return again, refuse(codes.AlreadyExists, "%s %q has a certificate until %s: give this host another name, or make a token for that one with drover cluster join-token --node %s",
				role, r.Name, living.GetExpireTime().AsTime().Format(time.RFC3339), r.Name)
		}
		if revoked != nil {
			return again, refuse(codes.PermissionDenied, "%s %q is revoked: make a token for it with drover cluster join-token --node %s", role, r.Name, r.Name)
		}
	}
	return again, nil
}

// issue signs and adds the record to the write.
func (a *API) issue(ctx context.Context, view state.ReadView, r identity.Request, role, by string, now time.Time, write *fleetv1.Write) (*fleetv1.IssuedCertificate, error) {
	meta := newMeta(ctx, &fleetv1.Meta{}, now)
	meta.CreatedBy = by
	cert, record, err := a.cfg.Identity.Issue(view, r, role, meta, now)
	if err != nil {
		return nil, refuse(codes.FailedPrecondition, "the scheduler that leads can't sign certificates: %v", err)
	}
	write.Mutations = append(write.Mutations, record)
	return cert, nil
}

// trust is what members are told.
func (a *API) trust(role string) *fleetv1.Trust {
	t := authority.TrustOf(a.view().Cluster(), role)
	if t != nil {
		t.Schedulers = a.cfg.Identity.Schedulers()
	}
	return t
}

func (s *joinServer) Renew(ctx context.Context, req *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	who, ok := identity.PeerOf(ctx)
	if !ok {
		return nil, refuse(codes.Unauthenticated, "a certificate is renewed for who shows it: this caller has none")
	}
	resp, err := s.Certify(ctx, who, req.GetCsr())
	s.audit(ctx, "renewal", who.String(), err)
	return resp, err
}

// Certify gives a member another certificate: a caller whose certificate was checked, or, with an empty serial number,
// the scheduler of this process.
func (a *API) Certify(ctx context.Context, who identity.Peer, csr []byte) (*fleetv1.RenewResponse, error) {
	if a.cfg.Identity == nil {
		return nil, a.insecure()
	}
	r, err := identity.ParseRequest(csr)
	if err != nil {
		return nil, invalid("csr", "%v", err)
	}
	if r.Name != who.Name {
		return nil, refuse(codes.PermissionDenied, "%s asks for a certificate of %q: each member renews its own alone", who, r.Name)
	}
	resp := &fleetv1.RenewResponse{}
	err = a.mutate(ctx, renewCall{&fleetv1.RenewRequest{Csr: csr}}, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		if revoked := authority.Revoked(view.Cluster(), who.Role, who.Name); who.Serial != "" && revoked.GetUntilUnixNano() >= who.Issued.UnixNano() {
			return nil, refuse(codes.PermissionDenied, "%s: %v", who, identity.ErrRevoked)
		}
		if last := view.Certificate(who.Role, who.Name); who.Serial != "" && last.GetSerial() != who.Serial {
			a.cfg.Logger.Warn("a certificate is renewed that is not the last one given: the answer was lost, or somebody has a copy",
				"audit", "noted", "who", who.String(), "from", auth.Address(ctx), "serial", who.Serial, "last", last.GetSerial())
		}
		write := &fleetv1.Write{}
		cert, err := a.issue(ctx, view, r, who.Role, who.String(), now, write)
		resp.Certificate = cert
		return write, err
	})
	if err != nil {
		return nil, err
	}
	resp.Trust = a.trust(who.Role)
	return resp, nil
}
