package auth

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// served visits every method that schedulers serve.
func served(visit func(method string, d protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.v1", func(f protoreflect.FileDescriptor) bool {
		for s := range f.Services().Len() {
			if f.Services().Get(s).Name() == "LocalService" { // the agent's own
				continue
			}
			for m := range f.Services().Get(s).Methods().Len() {
				d := f.Services().Get(s).Methods().Get(m)
				visit("/"+string(d.Parent().FullName())+"/"+string(d.Name()), d)
			}
		}
		return true
	})
}

// TestEveryMethodHasARow: a method that is added later says who may call it, and which project it is about.
func TestEveryMethodHasARow(t *testing.T) {
	rows := methods()
	served(func(method string, d protoreflect.MethodDescriptor) {
		a, ok := rows[method]
		if !ok {
			t.Errorf("%s: nothing says who may call it", method)
		}
		delete(rows, method)
		if a.role == "" && method != fleetv1.JoinService_Join_FullMethodName {
			t.Errorf("%s: anybody may call it", method)
		}
		names := ""
		for i := range d.Input().Fields().Len() {
			f := d.Input().Fields().Get(i)
			switch {
			case f.Name() == "project" && f.Kind() == protoreflect.StringKind:
				names = "project"
			case f.Kind() == protoreflect.MessageKind && f.Message().Fields().ByName("meta") != nil:
				names = string(f.Name()) + ".meta.project"
			case f.Name() == "filter":
				names = "filter.project"
			}
		}
		inProject := a.role == fleetv1.RoleDeployer || a.role == fleetv1.RoleViewer || a.role == fleetv1.RoleLookup
		if inProject && a.project != names {
			t.Errorf("%s: the project is at %q, its row says %q", method, names, a.project)
		}
		if !inProject && a.project != "" {
			t.Errorf("%s: its row says that it is about a project, and asks for the role %s", method, a.role)
		}
		if a.project != "" {
			if got := textAt(naming(d, a.project, "p").ProtoReflect(), strings.Split(a.project, ".")); got != "p" {
				t.Errorf("%s: project %q", method, got)
			}
		}
	})
	for method := range rows {
		t.Errorf("%s has a row, and doesn't exist", method)
	}
}

// naming is a request of the method that names a project.
func naming(d protoreflect.MethodDescriptor, path, project string) proto.Message {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName())
	if err != nil {
		panic(err)
	}
	m := typ.New()
	at, parts := m, strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		at = at.Mutable(at.Descriptor().Fields().ByName(protoreflect.Name(p))).Message()
	}
	at.Set(at.Descriptor().Fields().ByName(protoreflect.Name(parts[len(parts)-1])), protoreflect.ValueOfString(project))
	return m.Interface()
}

// givingStream has one request to give.
type givingStream struct {
	fakeStream
	give proto.Message
}

func (s givingStream) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), s.give)
	return nil
}

// call makes a call as gRPC does, and answers the caller that the handler sees.
func call(ctx context.Context, i *Interceptors, method string, d protoreflect.MethodDescriptor, req proto.Message) (seen Caller, err error) {
	if !d.IsStreamingClient() && !d.IsStreamingServer() {
		_, err = i.Unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
			seen, _ = FromContext(ctx)
			return nil, nil
		})
		return seen, err
	}
	err = i.Stream(nil, givingStream{fakeStream{ctx: ctx}, req}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, ss grpc.ServerStream) error {
		if err := ss.RecvMsg(req.ProtoReflect().New().Interface()); err != nil {
			return errors.New("the handler's own words")
		}
		seen, _ = FromContext(ss.Context())
		return nil
	})
	return seen, err
}

// TestOtherProjectsAreAbsent: whatever the method, a deployer reaches nothing of another project, and no method of
// those who run the fleet.
func TestOtherProjectsAreAbsent(t *testing.T) {
	full := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{token("d", "s-d", fleetv1.RoleDeployer, "mine")}}
	certs := newCertificates(t)
	full.tokens[0].Scopes = []*fleetv1.Scope{{Project: "seen", Role: fleetv1.RoleViewer}}
	i := interceptors(full, true, slog.New(slog.DiscardHandler))
	direct := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer s-d"))
	passed := from(t.Context(), certs.scheduler, forwardedKey, forwarded(t, Caller{Name: "d", Role: fleetv1.RoleDeployer, Project: "mine", Scopes: "seen=viewer"}))
	tried := 0
	served(func(method string, d protoreflect.MethodDescriptor) {
		a := methods()[method]
		for how, ctx := range map[string]context.Context{"direct": direct, "passed on": passed} {
			if a.project == "" {
				ask, err := protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				_, err = call(ctx, i, method, d, ask.New().Interface())
				want := codes.PermissionDenied
				switch {
				case covers(fleetv1.RoleDeployer, a.role) || a.role == "":
					want = codes.OK
				case a.role == roleMember && how == "direct":
					want = codes.Unauthenticated
				}
				if status.Code(err) != want {
					t.Errorf("%s, %s: %v, want %v", method, how, err, want)
				}
				continue
			}
			tried++
			if _, err := call(ctx, i, method, d, naming(d, a.project, "theirs")); status.Code(err) != codes.NotFound || status.Convert(err).Message() != `there is no project "theirs"` {
				t.Errorf("%s, %s, in another project: %v", method, how, err)
			}
			for _, p := range []string{"", "mine"} {
				if c, err := call(ctx, i, method, d, naming(d, a.project, p)); err != nil || c.Project != "mine" || c.Role != fleetv1.RoleDeployer {
					t.Errorf("%s, %s, in project %q: %+v, %v", method, how, p, c, err)
				}
			}
			c, err := call(ctx, i, method, d, naming(d, a.project, "seen"))
			if reads := covers(fleetv1.RoleViewer, a.role); reads != (err == nil && c.Role == fleetv1.RoleViewer && c.Project == "seen") ||
				!reads && (status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `the role "viewer" in project "seen"`)) {
				t.Errorf("%s, %s, with another scope: %+v, %v", method, how, c, err)
			}
		}
	})
	if tried < 40 {
		t.Errorf("only %d calls were tried", tried)
	}
}

func TestRoles(t *testing.T) {
	all := append(Roles(), fleetv1.RoleAgent, fleetv1.RoleScheduler, roleMember)
	for has, want := range map[string]string{
		fleetv1.RoleAdmin: "admin operator deployer viewer lookup", fleetv1.RoleOperator: "operator viewer lookup", fleetv1.RoleDeployer: "deployer viewer lookup",
		fleetv1.RoleViewer: "viewer lookup", fleetv1.RoleLookup: "lookup", fleetv1.RoleAgent: "agent member", fleetv1.RoleScheduler: "scheduler member",
		roleMember: "", "root": "", "": "",
	} {
		var got []string
		for _, needs := range all {
			if covers(has, needs) {
				got = append(got, needs)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q covers %q, want %q", has, text, want)
		}
		if covers(has, has) == (want == "") {
			t.Errorf("%q covers itself: %v", has, covers(has, has))
		}
	}
}

func TestIn(t *testing.T) {
	c := Caller{Role: fleetv1.RoleDeployer, Project: "a", Scopes: "b=viewer c=lookup"}
	for _, x := range []struct {
		project, role string
		ok            bool
	}{{"", fleetv1.RoleDeployer, true}, {"a", fleetv1.RoleDeployer, true}, {"b", fleetv1.RoleViewer, true}, {"c", fleetv1.RoleLookup, true}, {"d", "", false}, {"b=viewer", "", false}} {
		if in, ok := c.In(x.project); ok != x.ok || ok && in.Role != x.role {
			t.Errorf("in %q: %+v, %v", x.project, in, ok)
		}
	}
	if !c.May(fleetv1.RoleViewer, "b") || c.May(fleetv1.RoleDeployer, "b") || c.May(fleetv1.RoleLookup, "d") {
		t.Error("May differs from In")
	}
	if in, ok := (Caller{Role: fleetv1.RoleOperator, Project: "a"}).In("z"); !ok || in.Project != "z" || in.Role != fleetv1.RoleOperator {
		t.Errorf("an operator in z: %+v", in)
	}
}

// TestRaisedRoles: nobody gets a role by saying that he has it.
func TestRaisedRoles(t *testing.T) {
	full := &view{cluster: &fleetv1.Cluster{}, tokens: []*fleetv1.Token{token("d", "s-d", fleetv1.RoleDeployer, "mine")}}
	certs := newCertificates(t)
	i := interceptors(full, true, slog.New(slog.DiscardHandler))
	const list = fleetv1.NodeService_ListNodes_FullMethodName
	raised := forwarded(t, Caller{Name: "d", Role: fleetv1.RoleAdmin, Project: "mine"})
	for name, ctx := range map[string]context.Context{
		"with his token":            from(t.Context(), nil, "authorization", "Bearer s-d", forwardedKey, raised),
		"with a node's certificate": from(t.Context(), certs.agent, forwardedKey, raised),
		"as a scheduler":            from(t.Context(), certs.scheduler, forwardedKey, forwarded(t, Caller{Name: "d", Role: fleetv1.RoleScheduler})),
		"as nothing known":          from(t.Context(), certs.scheduler, forwardedKey, forwarded(t, Caller{Name: "d", Role: "root"})),
		"as a deployer":             from(t.Context(), certs.scheduler, forwardedKey, forwarded(t, Caller{Name: "d", Role: fleetv1.RoleDeployer, Project: "mine", Scopes: "mine=admin"})),
	} {
		if _, err := i.admit(ctx, list, &fleetv1.ListNodesRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}
