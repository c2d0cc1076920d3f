package api

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

type tenantServer struct {
	*API
	fleetv1.UnimplementedTenantServiceServer
}

// tenant is an account, a project or a user.
type tenant interface {
	proto.Message
	GetMeta() *fleetv1.Meta
}

// create makes a tenant unless it stands as asked. With owned it belongs to an account, the caller's when none is named.
func (s *tenantServer) create(ctx context.Context, req request, kind string, asked *fleetv1.Meta, owned bool, find func(state.ReadView) *fleetv1.Meta, with func(*fleetv1.Meta) tenant) error {
	var v violations
	v.meta(kind, asked, false)
	if asked.GetAccount() != "" {
		v.name(kind+".meta.account", asked.GetAccount(), false)
	}
	if err := v.err(); err != nil {
		return err
	}
	return s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		meta, write := newMeta(ctx, asked, now), &fleetv1.Write{}
		meta.Account, meta.Project = cmp.Or(asked.GetAccount(), meta.GetAccount()), ""
		if kind == fleetv1.KindProject {
			meta.Project = meta.GetName()
		}
		if owned && view.Account(meta.GetAccount()) == nil {
			return nil, missing(kind+".meta.account", "account", meta.GetAccount(), namesOf(view.Accounts()))
		}
		if owned {
			write.Needs = need(fleetv1.KindAccount, meta.GetAccount())
		} else {
			meta.Account = meta.GetName()
		}
		if old := find(view); old != nil {
			return nil, unchanged(kind, meta.GetName(), old, meta, &fleetv1.Meta{Account: old.GetAccount()}, &fleetv1.Meta{Account: meta.GetAccount()})
		}
		write.Mutations = []*fleetv1.Mutation{state.Put(0, with(meta))}
		return write, nil
	})
}

// remove deletes a tenant, and what goes with it first.
func (s *tenantServer) remove(ctx context.Context, req request, kind, name string, find func(state.ReadView) tenant, names func(state.ReadView) []string, first func(state.ReadView, time.Time) ([]*fleetv1.Mutation, error)) error {
	if name == fleetv1.Default {
		return refuse(codes.FailedPrecondition, "the %s %q exists always", kind, name)
	}
	return s.mutate(ctx, req, func(_ context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		found := find(view)
		if name == "" {
			return nil, invalid("name", "is missing")
		}
		if found == nil {
			return nil, missing("name", kind, name, names(view))
		}
		before, err := first(view, now)
		if err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: append(before, state.Delete(found.GetMeta().GetRevision(), state.Key{Kind: kind, Key: name}))}, nil
	})
}

// used refuses the deletion of what is in use.
func used(kind, name string, by func(state.ReadView, string) string) func(state.ReadView, time.Time) ([]*fleetv1.Mutation, error) {
	return func(view state.ReadView, _ time.Time) ([]*fleetv1.Mutation, error) {
		if why := by(view, name); why != "" {
			return nil, refuse(codes.FailedPrecondition, "%s %q is in use: %s", kind, name, why)
		}
		return nil, nil
	}
}

func (s *tenantServer) CreateAccount(ctx context.Context, req *fleetv1.CreateAccountRequest) (*fleetv1.CreateAccountResponse, error) {
	name := req.GetAccount().GetMeta().GetName()
	err := s.create(ctx, req, fleetv1.KindAccount, req.GetAccount().GetMeta(), false,
		func(view state.ReadView) *fleetv1.Meta { return view.Account(name).GetMeta() },
		func(m *fleetv1.Meta) tenant { return &fleetv1.Account{Meta: m} })
	return &fleetv1.CreateAccountResponse{Account: s.view().Account(name)}, err
}

func (s *tenantServer) ListAccounts(context.Context, *fleetv1.ListAccountsRequest) (*fleetv1.ListAccountsResponse, error) {
	return &fleetv1.ListAccountsResponse{Accounts: s.view().Accounts()}, nil
}

func (s *tenantServer) DeleteAccount(ctx context.Context, req *fleetv1.DeleteAccountRequest) (*fleetv1.DeleteAccountResponse, error) {
	err := s.remove(ctx, req, fleetv1.KindAccount, req.GetName(), func(view state.ReadView) tenant {
		if a := view.Account(req.GetName()); a != nil {
			return a
		}
		return nil
	}, func(view state.ReadView) []string { return namesOf(view.Accounts()) }, used(fleetv1.KindAccount, req.GetName(), state.UserOfAccount))
	return &fleetv1.DeleteAccountResponse{}, err
}

func (s *tenantServer) CreateProject(ctx context.Context, req *fleetv1.CreateProjectRequest) (*fleetv1.CreateProjectResponse, error) {
	name := req.GetProject().GetMeta().GetName()
	err := s.create(ctx, req, fleetv1.KindProject, req.GetProject().GetMeta(), true,
		func(view state.ReadView) *fleetv1.Meta { return view.Project(name).GetMeta() },
		func(m *fleetv1.Meta) tenant { return &fleetv1.Project{Meta: m} })
	return &fleetv1.CreateProjectResponse{Project: s.view().Project(name)}, err
}

func (s *tenantServer) ListProjects(ctx context.Context, _ *fleetv1.ListProjectsRequest) (*fleetv1.ListProjectsResponse, error) {
	resp := &fleetv1.ListProjectsResponse{}
	for _, p := range s.view().Projects() {
		if caller(ctx).May(fleetv1.RoleLookup, p.GetMeta().GetName()) {
			resp.Projects = append(resp.Projects, p)
		}
	}
	return resp, nil
}

func (s *tenantServer) DeleteProject(ctx context.Context, req *fleetv1.DeleteProjectRequest) (*fleetv1.DeleteProjectResponse, error) {
	err := s.remove(ctx, req, fleetv1.KindProject, req.GetName(), func(view state.ReadView) tenant {
		if p := view.Project(req.GetName()); p != nil {
			return p
		}
		return nil
	}, func(view state.ReadView) []string { return namesOf(view.Projects()) }, used(fleetv1.KindProject, req.GetName(), state.UserOfProject))
	return &fleetv1.DeleteProjectResponse{}, err
}

func (s *tenantServer) CreateUser(ctx context.Context, req *fleetv1.CreateUserRequest) (*fleetv1.CreateUserResponse, error) {
	name := req.GetUser().GetMeta().GetName()
	err := s.create(ctx, req, fleetv1.KindUser, req.GetUser().GetMeta(), true,
		func(view state.ReadView) *fleetv1.Meta { return view.User(name).GetMeta() },
		func(m *fleetv1.Meta) tenant { return &fleetv1.User{Meta: m} })
	return &fleetv1.CreateUserResponse{User: s.view().User(name)}, err
}

func (s *tenantServer) ListUsers(context.Context, *fleetv1.ListUsersRequest) (*fleetv1.ListUsersResponse, error) {
	return &fleetv1.ListUsersResponse{Users: s.view().Users()}, nil
}

func (s *tenantServer) DeleteUser(ctx context.Context, req *fleetv1.DeleteUserRequest) (*fleetv1.DeleteUserResponse, error) {
	resp := &fleetv1.DeleteUserResponse{}
	err := s.remove(ctx, req, fleetv1.KindUser, req.GetName(), func(view state.ReadView) tenant {
		if u := view.User(req.GetName()); u != nil {
			return u
		}
		return nil
	}, func(view state.ReadView) []string { return namesOf(view.Users()) }, func(view state.ReadView, now time.Time) ([]*fleetv1.Mutation, error) {
		gone := func(user string) bool { return user == req.GetName() }
		revoked, err := revokeTokens(view, func(t *fleetv1.Token) bool { return gone(t.GetUser()) }, now)
		if err != nil {
			return nil, err
		}
		for _, k := range view.Keys() {
			if gone(k.GetUser()) {
				revoked = append(revoked, state.Delete(k.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindKey, Key: k.GetMeta().GetName()}))
			}
		}
		resp.Revoked = int32(len(revoked))
		return revoked, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "delete user "+req.GetName())
	return resp, nil
}

// revokeTokens are the changes that revoke tokens. An admin's last one is kept: who revoked it couldn't come in again.
func revokeTokens(view state.ReadView, which func(*fleetv1.Token) bool, now time.Time) ([]*fleetv1.Mutation, error) {
	var out []*fleetv1.Mutation
	admins, last := 0, ""
	for _, t := range view.Tokens() {
		living := t.GetExpireTime() == nil || t.GetExpireTime().AsTime().After(now)
		switch admin := t.GetRole() == fleetv1.RoleAdmin && living; {
		case which(t):
			out = append(out, state.Delete(t.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindToken, Key: t.GetMeta().GetName()}))
			if admin {
				last = t.GetMeta().GetName()
			}
		case admin:
			admins++
		}
	}
	if last != "" && admins == 0 {
		return nil, refuse(codes.FailedPrecondition, "token %q is the last one of an admin: make another one first, with drover token create", last)
	}
	return out, nil
}

// scopes checks what a credential of a user may do, and answers what its write needs.
func (v *violations) scopes(field string, view state.ReadView, user *fleetv1.User, scopes []*fleetv1.Scope) (needs []*fleetv1.ObjectRef) {
	if len(scopes) == 0 || len(scopes) > maxScopes {
		v.add(field, "has %d entries, 1–%d are allowed", len(scopes), maxScopes)
	}
	seen := map[string]bool{}
	for i, scope := range scopes {
		at := elementOf(field, i)
		v.oneOf(at+".role", scope.GetRole(), auth.Roles()...)
		everywhere := auth.Caller{Role: scope.GetRole()}.Everywhere()
		switch p := view.Project(scope.GetProject()); {
		case p == nil:
			v.add(at+".project", "%s", missing("", "project", scope.GetProject(), namesOf(view.Projects())).Msg)
		case seen[scope.GetProject()]:
			v.add(at+".project", "%q stands twice", scope.GetProject())
		case everywhere && len(scopes) > 1:
			v.add(at+".role", "%q holds in every project: no other scope is needed", scope.GetRole())
		case !everywhere && p.GetMeta().GetAccount() != user.GetMeta().GetAccount():
			v.add(at+".project", "%q belongs to account %q, user %q to %q", scope.GetProject(), p.GetMeta().GetAccount(), user.GetMeta().GetName(), user.GetMeta().GetAccount())
		}
		seen[scope.GetProject()] = true
		needs = append(needs, need(fleetv1.KindProject, scope.GetProject())...)
	}
	return needs
}
