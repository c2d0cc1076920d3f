package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fakeTenants knows the account acme with the project vision and the user ann.
type fakeTenants struct {
	fleetv1.UnimplementedTenantServiceServer
}

func acme(name string) *fleetv1.Meta {
	return &fleetv1.Meta{Name: name, Account: "acme", CreatedBy: "admin", CreateTime: timestamppb.New(started)}
}

func (fakeTenants) CreateAccount(_ context.Context, r *fleetv1.CreateAccountRequest) (*fleetv1.CreateAccountResponse, error) {
	return &fleetv1.CreateAccountResponse{Account: r.GetAccount()}, nil
}

func (fakeTenants) ListAccounts(context.Context, *fleetv1.ListAccountsRequest) (*fleetv1.ListAccountsResponse, error) {
	return &fleetv1.ListAccountsResponse{Accounts: []*fleetv1.Account{{Meta: acme("acme")}}}, nil
}

func (fakeTenants) DeleteAccount(_ context.Context, r *fleetv1.DeleteAccountRequest) (*fleetv1.DeleteAccountResponse, error) {
	return nil, status.Errorf(codes.FailedPrecondition, "account %q is in use: project vision belongs to it", r.GetName())
}

func (fakeTenants) CreateProject(_ context.Context, r *fleetv1.CreateProjectRequest) (*fleetv1.CreateProjectResponse, error) {
	return &fleetv1.CreateProjectResponse{Project: r.GetProject()}, nil
}

func (fakeTenants) ListProjects(context.Context, *fleetv1.ListProjectsRequest) (*fleetv1.ListProjectsResponse, error) {
	return &fleetv1.ListProjectsResponse{Projects: []*fleetv1.Project{{Meta: &fleetv1.Meta{Name: "default", Account: "default"}}, {Meta: acme("vision")}}}, nil
}

func (fakeTenants) DeleteProject(context.Context, *fleetv1.DeleteProjectRequest) (*fleetv1.DeleteProjectResponse, error) {
	return &fleetv1.DeleteProjectResponse{}, nil
}

func (fakeTenants) CreateUser(_ context.Context, r *fleetv1.CreateUserRequest) (*fleetv1.CreateUserResponse, error) {
	return &fleetv1.CreateUserResponse{User: r.GetUser()}, nil
}

func (fakeTenants) ListUsers(context.Context, *fleetv1.ListUsersRequest) (*fleetv1.ListUsersResponse, error) {
	return &fleetv1.ListUsersResponse{Users: []*fleetv1.User{{Meta: acme("ann")}}}, nil
}

func (fakeTenants) DeleteUser(context.Context, *fleetv1.DeleteUserRequest) (*fleetv1.DeleteUserResponse, error) {
	return &fleetv1.DeleteUserResponse{Revoked: 2}, nil
}

// fakeCredentials tells what it was asked for, in its answers; a secret of what is called "lost" gets lost.
type fakeCredentials struct {
	fleetv1.UnimplementedCredentialServiceServer
}

func expires(seconds int64) *timestamppb.Timestamp {
	if seconds == 0 {
		return nil
	}
	return timestamppb.New(started.Add(time.Duration(seconds) * time.Second))
}

func secretOf(name, secret string) string {
	if name == "lost" {
		return ""
	}
	return secret
}

func (*fakeCredentials) CreateToken(_ context.Context, r *fleetv1.CreateTokenRequest) (*fleetv1.CreateTokenResponse, error) {
	return &fleetv1.CreateTokenResponse{Secret: secretOf(r.GetName(), "drover-xyz"),
		Token: &fleetv1.ShownToken{Meta: acme(r.GetName()), User: r.GetUser(), Scopes: r.GetScopes(), ExpireTime: expires(r.GetLifetimeSeconds())}}, nil
}

func (*fakeCredentials) ListTokens(context.Context, *fleetv1.ListTokensRequest) (*fleetv1.ListTokensResponse, error) {
	return &fleetv1.ListTokensResponse{Tokens: []*fleetv1.ShownToken{
		{Meta: acme("admin"), Scopes: []*fleetv1.Scope{{Project: "default", Role: "admin"}}},
		{Meta: acme("ci"), User: "ann", Scopes: []*fleetv1.Scope{{Project: "vision", Role: "deployer"}, {Project: "speech", Role: "viewer"}},
			ExpireTime: timestamppb.New(started), LastUsedTime: timestamppb.New(started)},
	}}, nil
}

func (*fakeCredentials) RevokeToken(_ context.Context, r *fleetv1.RevokeTokenRequest) (*fleetv1.RevokeTokenResponse, error) {
	if r.GetName() == "admin" {
		return nil, status.Error(codes.FailedPrecondition, `token "admin" is the last one of an admin`)
	}
	return &fleetv1.RevokeTokenResponse{}, nil
}

func (*fakeCredentials) CreateKey(_ context.Context, r *fleetv1.CreateKeyRequest) (*fleetv1.CreateKeyResponse, error) {
	return &fleetv1.CreateKeyResponse{Secret: secretOf(r.GetUser(), "sk"), Key: &fleetv1.Key{Meta: acme("AK1"), User: r.GetUser(), Scopes: r.GetScopes()}}, nil
}

func (*fakeCredentials) ListKeys(context.Context, *fleetv1.ListKeysRequest) (*fleetv1.ListKeysResponse, error) {
	return &fleetv1.ListKeysResponse{Keys: []*fleetv1.Key{{Meta: acme("AK1"), User: "ann", Scopes: []*fleetv1.Scope{{Project: "vision", Role: "lookup"}}}}}, nil
}

func (*fakeCredentials) RevokeKey(context.Context, *fleetv1.RevokeKeyRequest) (*fleetv1.RevokeKeyResponse, error) {
	return &fleetv1.RevokeKeyResponse{}, nil
}

func shop(services ...string) *fleetv1.App {
	return &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop", Project: "vision", CreatedBy: "ci"}, AppKey: "APP1", Services: services, ServiceIds: map[string]string{"iris": "id-of-iris"},
		Codes: []*fleetv1.AppCode{{Id: "k3v9", CreateTime: timestamppb.New(started)}}}
}

func (*fakeCredentials) CreateApp(_ context.Context, r *fleetv1.CreateAppRequest) (*fleetv1.CreateAppResponse, error) {
	return &fleetv1.CreateAppResponse{App: shop(r.GetApp().GetServices()...), Secret: secretOf(r.GetApp().GetMeta().GetName(), "as"), Code: "drover-code"}, nil
}

func (*fakeCredentials) ListApps(_ context.Context, r *fleetv1.ListAppsRequest) (*fleetv1.ListAppsResponse, error) {
	if strings.HasPrefix(r.GetProject(), "no") {
		return nil, status.Errorf(codes.NotFound, "there is no project %q", r.GetProject())
	}
	return &fleetv1.ListAppsResponse{Apps: []*fleetv1.App{shop("iris", "rose")}}, nil
}

func (*fakeCredentials) BindApp(_ context.Context, r *fleetv1.BindAppRequest) (*fleetv1.BindAppResponse, error) {
	return &fleetv1.BindAppResponse{App: shop(r.GetServices()...)}, nil
}

func (*fakeCredentials) DeleteApp(context.Context, *fleetv1.DeleteAppRequest) (*fleetv1.DeleteAppResponse, error) {
	return &fleetv1.DeleteAppResponse{}, nil
}

func (*fakeCredentials) CreateAppCode(_ context.Context, r *fleetv1.CreateAppCodeRequest) (*fleetv1.CreateAppCodeResponse, error) {
	return &fleetv1.CreateAppCodeResponse{App: shop(), Code: secretOf(r.GetName(), "drover-more")}, nil
}

func (*fakeCredentials) RevokeAppCode(context.Context, *fleetv1.RevokeAppCodeRequest) (*fleetv1.RevokeAppCodeResponse, error) {
	return &fleetv1.RevokeAppCodeResponse{App: shop()}, nil
}
