package scheduler_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// settled is a scheduler with TLS that has the project vision, and a client for each role in it.
func settled(t *testing.T, dir string) (s *secured, as func(role string) *client.Client) {
	s = runSecure(t, secureConfig(dir))
	_, err := s.client.Tenants.CreateProject(s.context(), &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: &fleetv1.Meta{Name: "vision"}}})
	s.must(err)
	return s, func(role string) *client.Client {
		t.Helper()
		made, err := s.client.Credentials.CreateToken(s.context(), &fleetv1.CreateTokenRequest{Name: "of-" + role, User: fleetv1.Default, Scopes: []*fleetv1.Scope{{Project: "vision", Role: role}}})
		s.must(err)
		c, err := client.Dial(client.Config{Addr: s.GRPCAddr(), Token: made.GetSecret(), CAFile: s.CAPath()})
		s.must(err)
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func TestRolesOverTheWire(t *testing.T) {
	t.Parallel()
	s, as := settled(t, t.TempDir())
	for _, role := range auth.Roles() {
		c := as(role)
		for what, call := range map[string]struct {
			do  func() error
			may string // the roles that may
		}{
			"list tokens": {func() error {
				_, err := c.Credentials.ListTokens(s.context(), &fleetv1.ListTokensRequest{})
				return err
			}, "admin"},
			"list nodes": {func() error { _, err := c.Nodes.ListNodes(s.context(), &fleetv1.ListNodesRequest{}); return err }, "admin operator"},
			"list services": {func() error {
				_, err := c.Services.ListServices(s.context(), &fleetv1.ListServicesRequest{})
				return err
			}, "admin operator deployer viewer"},
			"delete a model": {func() error {
				_, err := c.Models.DeleteModel(s.context(), &fleetv1.DeleteModelRequest{Name: "none"})
				return err
			}, "admin deployer"},
			"watch events": {func() error {
				ctx, cancel := context.WithCancel(s.context())
				defer cancel()
				stream, err := c.Events.WatchEvents(ctx, &fleetv1.WatchEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindService, Name: "none", Project: "vision"}})
				if err != nil {
					return err
				}
				time.AfterFunc(200*time.Millisecond, cancel) // what isn't refused by then waits for events
				_, err = stream.Recv()
				return err
			}, "admin operator deployer viewer"},
			"list endpoints": {func() error {
				_, err := c.Services.ListEndpoints(s.context(), &fleetv1.ListEndpointsRequest{Name: "none"})
				return err
			}, "admin operator deployer viewer"},
			"look endpoints up": {func() error {
				_, err := c.Lookup.Get(s.context(), &fleetv1.LookupServiceGetRequest{Service: "none"})
				return err
			}, "admin operator deployer viewer lookup"},
		} {
			err := call.do()
			if may := strings.Contains(" "+call.may+" ", " "+role+" "); may == (status.Code(err) == codes.PermissionDenied) {
				t.Errorf("%s: %s: %v", role, what, err)
			}
		}
		_, err := c.Services.ListServices(s.context(), &fleetv1.ListServicesRequest{Project: fleetv1.Default})
		if want := map[bool]codes.Code{true: codes.OK, false: codes.NotFound}[role == fleetv1.RoleAdmin || role == fleetv1.RoleOperator]; status.Code(err) != want {
			t.Errorf("%s in another project: %v", role, err)
		}
	}
	if s.log.line("audit=done", `"make token of-deployer"`) == "" {
		t.Error("the audit doesn't tell of the tokens")
	}
}

// A follower tells the leader of uses; nobody else can.
func TestUsesAreTold(t *testing.T) {
	t.Parallel()
	s, as := settled(t, t.TempDir())
	viewer, at := as(fleetv1.RoleViewer), timestamppb.New(time.Now().Truncate(time.Second))
	told := &fleetv1.NoteUsesRequest{Uses: []*fleetv1.CredentialUse{{Kind: fleetv1.KindToken, Key: "of-viewer", Time: at}, {Kind: fleetv1.KindKey, Key: "none", Time: at}}}
	if _, err := fleetv1.NewPeerServiceClient(s.dial(s.member(fleetv1.RoleAgent, "n1"))).NoteUses(s.context(), told); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a node: %v", err)
	}
	peer := fleetv1.NewPeerServiceClient(s.dial(s.member(fleetv1.RoleScheduler, "11111111-1111-4111-8111-111111111111")))
	_, err := peer.NoteUses(s.context(), told)
	s.must(err)
	all, err := s.client.Credentials.ListTokens(s.context(), &fleetv1.ListTokensRequest{})
	s.must(err)
	found := false
	for _, tok := range all.GetTokens() {
		found = found || tok.GetMeta().GetName() == "of-viewer" && tok.GetLastUsedTime().AsTime().Equal(at.AsTime())
	}
	if !found {
		t.Errorf("the use isn't stored: %v", all)
	}
	if _, err := viewer.Services.ListServices(s.context(), &fleetv1.ListServicesRequest{}); err != nil {
		t.Errorf("with the token whose use was stored: %v", err)
	}
	many := &fleetv1.NoteUsesRequest{Uses: make([]*fleetv1.CredentialUse, 10_000)}
	for i := range many.Uses {
		many.Uses[i] = told.GetUses()[0]
	}
	if _, err := peer.NoteUses(s.context(), many); status.Code(err) != codes.InvalidArgument {
		t.Errorf("very many: %v", err)
	}
}

// The secrets of keys and apps are encrypted anew with the CA's key.
func TestRotateKeyOfSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := settled(t, dir)
	_, err := s.client.Credentials.CreateKey(s.context(), &fleetv1.CreateKeyRequest{User: fleetv1.Default, Scopes: []*fleetv1.Scope{{Project: "vision", Role: fleetv1.RoleLookup}}})
	s.must(err)
	_, err = s.client.Credentials.CreateApp(s.context(), &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop", Project: "vision"}}})
	s.must(err)
	path := filepath.Join(dir, "cluster.key")
	old, err := os.ReadFile(path)
	s.must(err)
	rotate := func(keys ...byte) error {
		t.Helper()
		var file []byte
		for _, k := range keys {
			file = append(file, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{k}, 32))+"\n"...)
		}
		if len(keys) == 1 {
			file = append(file, old...)
		}
		s.must(os.WriteFile(path, file, 0o600))
		_, err := s.client.Identity.RotateKey(s.context(), &fleetv1.RotateKeyRequest{})
		return err
	}
	s.must(rotate(1))    // the new key, and the old one
	s.must(rotate(2, 1)) // without the old one: all that it had encrypted has been encrypted anew
	if err := rotate(3, 4); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without the key in use: %v", err)
	}
}

// A caller's words about himself count for nothing.
func TestNobodyRaisesHisRole(t *testing.T) {
	t.Parallel()
	s, as := settled(t, t.TempDir())
	viewer := as(fleetv1.RoleViewer)
	if _, err := viewer.Nodes.ListNodes(forwardedAs(t, "root")(s.context()), &fleetv1.ListNodesRequest{}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "a scheduler alone may do") {
		t.Errorf("passed on by himself: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(s.context(), "authorization", "Bearer drover-none")
	if _, err := viewer.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{}); status.Code(err) == codes.OK {
		t.Error("with a second token he is let in")
	}
}
