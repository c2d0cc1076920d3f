package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

func (w *world) tenants() fleetv1.TenantServiceClient { return fleetv1.NewTenantServiceClient(w.conn) }
func (w *world) credentials() fleetv1.CredentialServiceClient {
	return fleetv1.NewCredentialServiceClient(w.conn)
}

func bearing(ctx context.Context, secret string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs("authorization", "Bearer "+secret))
}

// settle makes the account acme with the project vision and the user ann.
func (w *world) settle() {
	w.t.Helper()
	of := func(name, account string) *fleetv1.Meta { return &fleetv1.Meta{Name: name, Account: account} }
	if _, err := w.tenants().CreateAccount(w.t.Context(), &fleetv1.CreateAccountRequest{Account: &fleetv1.Account{Meta: of("acme", "")}}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.tenants().CreateProject(w.t.Context(), &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: of("vision", "acme")}}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.tenants().CreateUser(w.t.Context(), &fleetv1.CreateUserRequest{User: &fleetv1.User{Meta: of("ann", "acme")}}); err != nil {
		w.t.Fatal(err)
	}
}

func scope(project, role string) *fleetv1.Scope { return &fleetv1.Scope{Project: project, Role: role} }

func TestTenants(t *testing.T) {
	w := newWorld(t)
	w.settle()
	index := w.store.View().Index()
	p, err := w.tenants().CreateProject(t.Context(), &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: &fleetv1.Meta{Name: "vision", Account: "acme"}}})
	if err != nil || p.GetProject().GetMeta().GetAccount() != "acme" || p.GetProject().GetMeta().GetProject() != "vision" || w.store.View().Index() != index {
		t.Errorf("again: %v, %v", p, err)
	}
	_, err = w.tenants().CreateProject(t.Context(), &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: &fleetv1.Meta{Name: "vision"}}})
	w.refused("of another account", err, codes.AlreadyExists, "", "account", index)
	_, err = w.tenants().CreateUser(t.Context(), &fleetv1.CreateUserRequest{User: &fleetv1.User{Meta: &fleetv1.Meta{Name: "bob", Account: "acne"}}})
	w.refused("of no account", err, codes.NotFound, "user.meta.account", `did you mean "acme"?`, index)
	_, err = w.tenants().CreateUser(t.Context(), &fleetv1.CreateUserRequest{User: &fleetv1.User{Meta: &fleetv1.Meta{Name: "b=b"}}})
	w.refused("a bad name", err, codes.InvalidArgument, "user.meta.name", "=", index)
	_, err = w.tenants().DeleteAccount(t.Context(), &fleetv1.DeleteAccountRequest{Name: "acme"})
	w.refused("in use", err, codes.FailedPrecondition, "", "project vision belongs to it", index)
	for _, err := range []error{
		second(w.tenants().DeleteAccount(t.Context(), &fleetv1.DeleteAccountRequest{Name: "default"})),
		second(w.tenants().DeleteProject(t.Context(), &fleetv1.DeleteProjectRequest{Name: "default"})),
		second(w.tenants().DeleteUser(t.Context(), &fleetv1.DeleteUserRequest{Name: "default"})),
	} {
		w.refused("default", err, codes.FailedPrecondition, "", `"default" exists always`, index)
	}
	_, err = w.tenants().DeleteProject(t.Context(), &fleetv1.DeleteProjectRequest{Name: "visions"})
	w.refused("absent", err, codes.NotFound, "name", `did you mean "vision"?`, index)

	w.furnish()
	if _, err := fleetv1.NewModelServiceClient(w.conn).CreateModel(t.Context(), &fleetv1.CreateModelRequest{Model: &fleetv1.Model{
		Meta: &fleetv1.Meta{Name: "m", Project: "vision"}, Spec: &fleetv1.ModelSpec{Image: "reg/iris:1"}}}); err != nil {
		t.Fatal(err)
	}
	if m := w.store.View().Model("vision", "m", ""); m.GetMeta().GetAccount() != "acme" {
		t.Errorf("the model belongs to account %q", m.GetMeta().GetAccount())
	}
	index = w.store.View().Index()
	_, err = w.tenants().DeleteProject(t.Context(), &fleetv1.DeleteProjectRequest{Name: "vision"})
	w.refused("in use", err, codes.FailedPrecondition, "", "model m is in it", index)
	_, err = w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Project = "visions" }), "")
	w.refused("a service of no project", err, codes.NotFound, "", `there is no project "visions"; did you mean "vision"?`, index)
	all, err := w.tenants().ListProjects(t.Context(), &fleetv1.ListProjectsRequest{})
	if err != nil || !slices.Equal(namesOf(all.GetProjects()), []string{"default", "vision"}) {
		t.Errorf("projects %v, %v", all, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTokensAndKeys(t *testing.T) {
	w := newWorld(t)
	w.settle()
	root := auth.NewSecret()
	w.put(&fleetv1.Cluster{Meta: meta("cluster")}, &fleetv1.Token{Meta: meta("root"), SecretSha256: auth.Hash(root), Role: fleetv1.RoleAdmin})
	req := &fleetv1.CreateTokenRequest{Name: "ci", User: "ann", Scopes: []*fleetv1.Scope{scope("vision", "deployer")}, LifetimeSeconds: 60, RequestId: "r"}
	made, err := w.credentials().CreateToken(t.Context(), req)
	if err != nil || !strings.HasPrefix(made.GetSecret(), "drover-") || !made.GetToken().GetExpireTime().AsTime().Equal(start.Add(time.Minute)) {
		t.Fatalf("%v, %v", made, err)
	}
	again, err := w.credentials().CreateToken(t.Context(), req)
	if err != nil || again.GetSecret() != "" || again.GetToken().GetMeta().GetName() != "ci" {
		t.Errorf("repeated: %v, %v", again, err)
	}
	_, err = fleetv1.NewNodeServiceClient(w.conn).ListNodes(bearing(t.Context(), made.GetSecret()), &fleetv1.ListNodesRequest{})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `needs the role "operator"`) {
		t.Errorf("a deployer lists nodes: %v", err)
	}
	if s, err := w.services().ListServices(bearing(t.Context(), made.GetSecret()), &fleetv1.ListServicesRequest{}); err != nil || len(s.GetServices()) != 0 {
		t.Errorf("a deployer lists services: %v, %v", s, err)
	}
	key, err := w.credentials().CreateKey(t.Context(), &fleetv1.CreateKeyRequest{User: "ann", Scopes: []*fleetv1.Scope{scope("vision", "lookup")}})
	if err != nil || key.GetSecret() == "" || key.GetKey().GetSecret() != nil {
		t.Fatalf("%v, %v", key, err)
	}
	if sealed := w.store.View().Key(key.GetKey().GetMeta().GetName()).GetSecret(); string(sealed.GetCiphertext()) != key.GetSecret() || sealed.GetKeyId() != auth.AboutKey(key.GetKey().GetMeta().GetName()) {
		t.Errorf("sealed: %v", sealed)
	}
	index := w.store.View().Index()
	for _, c := range []struct {
		name, field, words string
		edit               func(*fleetv1.CreateTokenRequest)
	}{
		{"no scope", "scopes", "0 entries", func(r *fleetv1.CreateTokenRequest) { r.Scopes = nil }},
		{"unknown role", "scopes[0].role", `"root"`, func(r *fleetv1.CreateTokenRequest) { r.Scopes[0].Role = "root" }},
		{"an agent", "scopes[0].role", `"agent"`, func(r *fleetv1.CreateTokenRequest) { r.Scopes[0].Role = "agent" }},
		{"unknown project", "scopes[0].project", `did you mean "vision"?`, func(r *fleetv1.CreateTokenRequest) { r.Scopes[0].Project = "visio" }},
		{"another account's project", "scopes[0].project", `user "ann" to "acme"`, func(r *fleetv1.CreateTokenRequest) { r.Scopes[0].Project = "default" }},
		{"twice", "scopes[1].project", "stands twice", func(r *fleetv1.CreateTokenRequest) { r.Scopes = append(r.Scopes, r.Scopes[0]) }},
		{"admin among others", "scopes[1].role", "holds in every project", func(r *fleetv1.CreateTokenRequest) { r.Scopes = append(r.Scopes, scope("default", "admin")) }},
		{"lifetime", "lifetime_seconds", "-1", func(r *fleetv1.CreateTokenRequest) { r.LifetimeSeconds = -1 }},
		{"no name", "name", "missing", func(r *fleetv1.CreateTokenRequest) { r.Name = "" }},
	} {
		r := &fleetv1.CreateTokenRequest{Name: "x", User: "ann", Scopes: []*fleetv1.Scope{scope("vision", "viewer")}}
		c.edit(r)
		_, err := w.credentials().CreateToken(t.Context(), r)
		w.refused(c.name, err, codes.InvalidArgument, c.field, c.words, index)
	}
	_, err = w.credentials().CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Name: "x", User: "amy", Scopes: req.GetScopes()})
	w.refused("unknown user", err, codes.NotFound, "user", "there are: ann, default", index)
	_, err = w.credentials().CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Name: "ci", User: "ann", Scopes: req.GetScopes()})
	w.refused("a name twice", err, codes.AlreadyExists, "", "revoke it first", index)
	_, err = w.credentials().RevokeToken(t.Context(), &fleetv1.RevokeTokenRequest{Name: "root"})
	w.refused("the last admin's", err, codes.FailedPrecondition, "", "make another one first", index)
	_, err = w.credentials().RevokeToken(t.Context(), &fleetv1.RevokeTokenRequest{Name: "ic"})
	w.refused("absent", err, codes.NotFound, "name", "there is no token", index)
	_, err = w.credentials().RevokeKey(t.Context(), &fleetv1.RevokeKeyRequest{Name: "ic"})
	w.refused("absent", err, codes.NotFound, "name", "there is no key", index)

	tokens, err := w.credentials().ListTokens(t.Context(), &fleetv1.ListTokensRequest{})
	if err != nil || len(tokens.GetTokens()) != 2 || tokens.GetTokens()[0].GetScopes()[0].GetRole() != "deployer" {
		t.Errorf("tokens: %v, %v", tokens, err)
	}
	gone, err := w.tenants().DeleteUser(t.Context(), &fleetv1.DeleteUserRequest{Name: "ann"})
	if err != nil || gone.GetRevoked() != 2 || len(w.store.View().Keys()) != 0 {
		t.Errorf("deleted: %v, %v", gone, err)
	}
	if _, err := w.services().ListServices(bearing(t.Context(), made.GetSecret()), &fleetv1.ListServicesRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with the token of who is gone: %v", err)
	}
}

// TestProjectThatGoes: what is made in a project at the moment that it is deleted isn't made.
func TestProjectThatGoes(t *testing.T) {
	w := newWorld(t)
	w.settle()
	w.mu.Lock()
	w.before = func() {
		p := w.store.View().Project("vision")
		w.write(state.Delete(p.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindProject, Key: "vision"}))
	}
	w.mu.Unlock()
	_, err := w.credentials().CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Name: "ci", User: "ann", Scopes: []*fleetv1.Scope{scope("vision", "deployer")}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `there is no project "vision"`) || w.store.View().Token("ci") != nil {
		t.Errorf("%v; %v", err, w.store.View().Token("ci"))
	}
}

func TestApps(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	index := w.store.View().Index()
	app := func(services ...string) *fleetv1.CreateAppRequest {
		return &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop"}, Services: services}}
	}
	_, err := w.credentials().CreateApp(t.Context(), app("irs"))
	w.refused("unknown service", err, codes.InvalidArgument, "app.services[0]", `did you mean "iris"?`, index)
	_, err = w.credentials().CreateApp(t.Context(), app("iris", "iris"))
	w.refused("a service twice", err, codes.InvalidArgument, "app.services[1]", "twice", index)
	made, err := w.credentials().CreateApp(t.Context(), app("iris"))
	if err != nil || made.GetSecret() == "" || made.GetCode() == "" || made.GetApp().GetSecret() != nil || made.GetApp().GetCodes()[0].GetSha256() != nil {
		t.Fatalf("%v, %v", made, err)
	}
	if w.store.View().AppByCode(auth.Hash(made.GetCode())) == nil || w.store.View().AppByKey(made.GetApp().GetAppKey()) == nil {
		t.Error("the app isn't found by what it shows")
	}
	index = w.store.View().Index()
	_, err = w.credentials().CreateApp(t.Context(), app("iris"))
	w.refused("a name twice", err, codes.AlreadyExists, "", "delete it first", index)
	more, err := w.credentials().CreateAppCode(t.Context(), &fleetv1.CreateAppCodeRequest{Name: "shop"})
	if err != nil || len(more.GetApp().GetCodes()) != 2 || more.GetCode() == made.GetCode() {
		t.Errorf("another code: %v, %v", more, err)
	}
	left, err := w.credentials().RevokeAppCode(t.Context(), &fleetv1.RevokeAppCodeRequest{Name: "shop", Id: made.GetApp().GetCodes()[0].GetId()})
	if err != nil || len(left.GetApp().GetCodes()) != 1 || w.store.View().AppByCode(auth.Hash(made.GetCode())) != nil {
		t.Errorf("revoked: %v, %v", left, err)
	}
	if got := w.store.View().App("default", "shop").GetServiceIds()["iris"]; got == "" || got != w.store.View().Service("default", "iris").GetMeta().GetId() {
		t.Errorf("bound to %q", got)
	}
	index = w.store.View().Index()
	_, err = w.credentials().RevokeAppCode(t.Context(), &fleetv1.RevokeAppCodeRequest{Name: "shop", Id: "x"})
	w.refused("no such code", err, codes.NotFound, "id", "there is no code", index)
	_, err = w.credentials().BindApp(t.Context(), &fleetv1.BindAppRequest{Name: "shop", Services: []string{"none"}})
	w.refused("bound to nothing known", err, codes.InvalidArgument, "services[0]", "none", index)
	if bound, err := w.credentials().BindApp(t.Context(), &fleetv1.BindAppRequest{Name: "shop"}); err != nil || len(bound.GetApp().GetServices()) != 0 {
		t.Errorf("bound: %v, %v", bound, err)
	}
	if _, err := w.credentials().DeleteApp(t.Context(), &fleetv1.DeleteAppRequest{Name: "shop"}); err != nil || len(w.store.View().Apps("")) != 0 {
		t.Errorf("deleted: %v", err)
	}
}

// TestAppsOfDeletedServices: an app isn't bound to a service that has the name of one that it was bound to.
func TestAppsOfDeletedServices(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "rose" }))
	if _, err := w.credentials().CreateApp(t.Context(), &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop"}, Services: []string{"iris", "rose"}}}); err != nil {
		t.Fatal(err)
	}
	w.put(&fleetv1.App{Meta: &fleetv1.Meta{Name: "older", Project: fleetv1.Default}, AppKey: "OLDER", Services: []string{"iris"}})
	shown := func() string {
		t.Helper()
		all, err := w.credentials().ListApps(t.Context(), &fleetv1.ListAppsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, app := range all.GetApps() {
			out = append(out, app.GetMeta().GetName()+"="+strings.Join(app.GetServices(), ","))
			if app.GetMeta().GetName() == "shop" && len(app.GetServiceIds()) != len(app.GetServices()) {
				t.Errorf("IDs %v", app.GetServiceIds())
			}
		}
		return strings.Join(out, " ")
	}
	if got := shown(); got != "older=iris shop=iris,rose" {
		t.Errorf("before: %s", got)
	}
	old := w.store.View().Service("default", "iris")
	w.write(state.Delete(old.GetMeta().GetRevision(), state.ServiceKey("default", "iris")))
	if got := shown(); got != "older=iris shop=rose" {
		t.Errorf("when it is deleted: %s", got)
	}
	w.mustDeploy(iris(nil))
	if got := shown(); got != "older=iris shop=rose" {
		t.Errorf("when there is another: %s", got)
	}
	if _, err := w.credentials().BindApp(t.Context(), &fleetv1.BindAppRequest{Name: "shop", Services: []string{"iris", "rose"}}); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "older=iris shop=iris,rose" {
		t.Errorf("bound again: %s", got)
	}
}

// TestCaps: apps of a project, and tokens and keys of a user, are as many as are allowed, however many calls come at once.
func TestCaps(t *testing.T) {
	w := newWorld(t)
	w.settle()
	const apps, credentials = 3, 10 // of newWorld
	made := func(n int, try func(i int) error) (ok int, last error) {
		var mu sync.Mutex
		var calls sync.WaitGroup
		for i := range n {
			calls.Go(func() {
				err := try(i)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					ok++
				} else {
					last = err
				}
			})
		}
		calls.Wait()
		return ok, last
	}
	app := func(project string) func(int) error {
		return func(i int) error {
			return second(w.credentials().CreateApp(t.Context(), &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: fmt.Sprint("a", i), Project: project}}}))
		}
	}
	if n, err := made(2*apps, app("vision")); n != apps || status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), `project "vision" has 3 apps`) {
		t.Errorf("%d apps are made; %v", n, err)
	}
	if n, err := made(1, app("default")); n != 1 {
		t.Errorf("in another project: %v", err)
	}
	scopes := []*fleetv1.Scope{scope("vision", "viewer")}
	if n, err := made(2*credentials, func(i int) error {
		if i%2 == 0 {
			return second(w.credentials().CreateKey(t.Context(), &fleetv1.CreateKeyRequest{User: "ann", Scopes: scopes}))
		}
		return second(w.credentials().CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Name: fmt.Sprint("t", i), User: "ann", Scopes: scopes}))
	}); n != credentials || status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), `user "ann" has 10 tokens and keys`) {
		t.Errorf("%d tokens and keys are made; %v", n, err)
	}
	index := w.store.View().Index()
	_, err := w.credentials().CreateKey(t.Context(), &fleetv1.CreateKeyRequest{User: "ann", Scopes: scopes})
	w.refused("one more", err, codes.ResourceExhausted, "", "revoke some", index)
	if _, err := w.credentials().RevokeKey(t.Context(), &fleetv1.RevokeKeyRequest{Name: w.store.View().Keys()[0].GetMeta().GetName()}); err != nil {
		t.Fatal(err)
	}
	if n, err := made(3, func(int) error {
		return second(w.credentials().CreateKey(t.Context(), &fleetv1.CreateKeyRequest{User: "ann", Scopes: scopes}))
	}); n != 1 {
		t.Errorf("%d are made when one was revoked; %v", n, err)
	}
}

// hide makes objects of another account, all of whose names and IDs say "hidden".
func (w *world) hide() {
	w.t.Helper()
	of := func(name string) *fleetv1.Meta {
		return &fleetv1.Meta{Name: "hidden-" + name, Id: "hidden-" + name + "-id", Project: "hidden", Account: "hidden"}
	}
	w.put(&fleetv1.Account{Meta: &fleetv1.Meta{Name: "hidden"}}, &fleetv1.Project{Meta: &fleetv1.Meta{Name: "hidden", Account: "hidden", Project: "hidden"}},
		&fleetv1.Pool{Meta: of("pool"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Account: "hidden", Nodes: []string{"n1"}}},
		&fleetv1.Quota{Meta: &fleetv1.Meta{Name: "hidden", Project: "hidden"}, Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(5)}},
		&fleetv1.Model{Meta: of("model"), Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "reg/iris:1"}, Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal}},
		&fleetv1.Service{Meta: of("service"), Spec: &fleetv1.ServiceSpec{Pool: "hidden-pool"}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}},
		&fleetv1.Instance{Meta: of("instance"), Spec: &fleetv1.InstanceSpec{ServiceId: "hidden-service-id", Node: "n1"},
			Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}, Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning}},
		&fleetv1.App{Meta: of("app"), AppKey: "k", Codes: []*fleetv1.AppCode{{Id: "c", Sha256: []byte("c")}}})
}

// pretend sets every text of a request to what a name could be.
func pretend(m protoreflect.Message, project, kind string, byID bool, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := "hidden-" + kind
		if byID {
			name += "-id"
		}
		text := f.Kind() == protoreflect.StringKind && !f.IsList()
		switch {
		case f.IsMap() || f.Name() == "request_id" || f.Name() == "node":
		case text && f.Name() == "project":
			m.Set(f, protoreflect.ValueOfString(project))
		case text && (f.Name() == "name" || f.Name() == "service" || f.Name() == "pool"):
			m.Set(f, protoreflect.ValueOfString(name))
		case text && f.Name() == "kind":
			m.Set(f, protoreflect.ValueOfString(kind))
		case f.Kind() == protoreflect.MessageKind && !f.IsList() && depth > 0 && strings.HasPrefix(string(f.Message().FullName()), "fleet.v1."):
			pretend(m.Mutable(f).Message(), project, kind, byID, depth-1)
		}
	}
}

// TestAttackOtherProjects: a deployer calls every method with every name and ID of another account's objects, said to
// be in that project, in his own or in none. Nothing is told, and nothing changes.
func TestAttackOtherProjects(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.hide()
	w.mu.Lock()
	w.events = []*fleetv1.Event{}
	w.mu.Unlock()
	w.put(&fleetv1.Cluster{Meta: meta("cluster")}, &fleetv1.Token{Meta: meta("d"), SecretSha256: auth.Hash("s-d"), Role: fleetv1.RoleDeployer})
	before, calls := w.store.View().Index(), 0
	kinds := []string{"service", "model", "instance", "pool", "app"}
	served := w.served()
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.v1", func(file protoreflect.FileDescriptor) bool {
		for s := range file.Services().Len() {
			for m := range file.Services().Get(s).Methods().Len() {
				d := file.Services().Get(s).Methods().Get(m)
				method := "/" + string(d.Parent().FullName()) + "/" + string(d.Name())
				if !served[string(d.Parent().FullName())] || method == fleetv1.JoinService_Join_FullMethodName || method == fleetv1.JoinService_Renew_FullMethodName {
					continue
				}
				for _, project := range []string{"hidden", "default", ""} {
					if project != "hidden" && method == fleetv1.CredentialService_CreateApp_FullMethodName {
						continue // he may
					}
					for _, kind := range kinds {
						for _, byID := range []bool{false, true} {
							req := messageOf(t, d.Input())
							pretend(req.ProtoReflect(), project, kind, byID, 2)
							answers, err := w.callAs(t, "s-d", d, method, req)
							calls++
							for _, a := range answers {
								if text, e := protojson.Marshal(a); e != nil || strings.Contains(string(text), "hidden") {
									t.Errorf("%s with %v tells %s, %v", method, req, text, e)
								}
							}
							if c := status.Code(err); !slices.Contains([]codes.Code{codes.OK, codes.NotFound, codes.PermissionDenied, codes.InvalidArgument}, c) {
								t.Errorf("%s with %v: %v", method, req, err)
							}
							if now := w.store.View().Index(); now != before {
								t.Errorf("%s with %v changed something: %v", method, req, err)
								before = now
							}
						}
					}
				}
			}
		}
		return true
	})
	if calls < 1000 {
		t.Errorf("only %d calls were made", calls)
	}
	if w.filter.GetProject() != fleetv1.Default {
		t.Errorf("events are asked for with %v", w.filter)
	}
}

// served are the services of the API.
func (w *world) served() map[string]bool {
	s := grpc.NewServer()
	New(Config{}).Register(s)
	out := map[string]bool{}
	for name := range s.GetServiceInfo() {
		out[name] = true
	}
	return out
}

func messageOf(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// callAs makes any call, and answers what came.
func (w *world) callAs(t *testing.T, secret string, d protoreflect.MethodDescriptor, method string, req proto.Message) (answers []proto.Message, err error) {
	ctx, cancel := context.WithTimeout(bearing(t.Context(), secret), 5*time.Second)
	defer cancel()
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: d.IsStreamingServer(), ClientStreams: d.IsStreamingClient()}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		answer := messageOf(t, d.Output())
		if err := stream.RecvMsg(answer); errors.Is(err, io.EOF) {
			return answers, nil
		} else if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
		if !d.IsStreamingServer() {
			return answers, nil
		}
	}
}

func TestEventsOfProjects(t *testing.T) {
	w := newWorld(t)
	w.settle()
	w.put(&fleetv1.Cluster{Meta: meta("cluster")}, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "v", Project: "vision", Account: "acme"}, SecretSha256: auth.Hash("s-v"), Role: fleetv1.RoleViewer},
		&fleetv1.Token{Meta: meta("o"), SecretSha256: auth.Hash("s-o"), Role: fleetv1.RoleOperator, ExpireTime: timestamppb.New(start.Add(time.Hour))})
	events := fleetv1.NewEventServiceClient(w.conn)
	for _, c := range []struct {
		who, kind, project, asks string
		code                     codes.Code
	}{
		{"s-v", "", "", "vision", codes.OK}, {"s-v", "service", "", "vision", codes.OK}, {"s-v", "", "default", "", codes.NotFound},
		{"s-v", "node", "", "", codes.PermissionDenied}, {"s-o", "", "", "", codes.OK}, {"s-o", "node", "vision", "", codes.OK}, {"s-o", "", "vision", "vision", codes.OK},
	} {
		f := &fleetv1.EventFilter{Kind: c.kind, Project: c.project}
		_, err := events.ListEvents(bearing(t.Context(), c.who), &fleetv1.ListEventsRequest{Filter: f})
		if status.Code(err) != c.code || err == nil && w.filter.GetProject() != c.asks {
			t.Errorf("%s, %v: %v, asks for %v", c.who, f, err, w.filter)
		}
		stream, err := events.WatchEvents(bearing(t.Context(), c.who), &fleetv1.WatchEventsRequest{Filter: f})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.code || err == nil && w.filter.GetProject() != c.asks {
			t.Errorf("%s watches %v: %v, asks for %v", c.who, f, err, w.filter)
		}
	}
}
