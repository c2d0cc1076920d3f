package cluster

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A tenant has the same rights at every scheduler: followers pass calls on, unary ones and streams, with the caller's own
// project, role and scopes.
func TestTenantsAtEveryScheduler(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	admin := s.Leader().Client
	for _, name := range []string{"vision", "speech", "other"} {
		if _, err := admin.Tenants.CreateProject(ctx, &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: &fleetv1.Meta{Name: name}}}); err != nil {
			t.Fatal(err)
		}
	}
	made, err := admin.Credentials.CreateToken(ctx, &fleetv1.CreateTokenRequest{Name: "ci", User: fleetv1.Default, Scopes: []*fleetv1.Scope{
		{Project: "vision", Role: fleetv1.RoleDeployer}, {Project: "speech", Role: fleetv1.RoleViewer}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range s.All {
		c, err := client.Dial(client.Config{Addr: one.Server.GRPCAddr(), Token: made.GetSecret(), CAFile: one.Server.CAPath()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		s.Poll(one.Name+" knows the token", func() error {
			_, err := c.Services.ListServices(ctx, &fleetv1.ListServicesRequest{})
			return err
		})
		logs := func(project string) error {
			stream, err := c.Instances.GetInstanceLogs(ctx, &fleetv1.GetInstanceLogsRequest{Project: project, Name: "none"})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}
		app := func(project string) error {
			_, err := c.Credentials.CreateApp(ctx, &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: fmt.Sprint("shop", i), Project: project}}})
			return err
		}
		nodes := func(context.Context) error { _, err := c.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{}); return err }
		for what, x := range map[string]struct {
			err  error
			code codes.Code
			says string
		}{
			"an app of his own":          {app(""), codes.OK, ""},
			"an app where he only looks": {app("speech"), codes.PermissionDenied, ""},
			"an app of others":           {app("other"), codes.NotFound, `there is no project "other"`},
			"logs of nothing":            {logs(""), codes.NotFound, `there is no instance "none", and none exists yet: create it first`},
			"logs where he looks":        {logs("speech"), codes.NotFound, `there is no instance "none", and none exists yet: create it first`},
			"logs of others":             {logs("other"), codes.NotFound, `there is no project "other"`},
			"nodes":                      {nodes(ctx), codes.PermissionDenied, ""},
		} {
			if got := status.Convert(x.err); got.Code() != x.code || x.says != "" && got.Message() != x.says {
				t.Errorf("%s, %s: %v", one.Name, what, x.err)
			}
		}
		projects, err := c.Tenants.ListProjects(ctx, &fleetv1.ListProjectsRequest{})
		if err != nil || len(projects.GetProjects()) != 2 {
			t.Errorf("%s: projects %v, %v", one.Name, projects, err)
		}
	}
	if apps, err := admin.Credentials.ListApps(ctx, &fleetv1.ListAppsRequest{Project: "vision"}); err != nil || len(apps.GetApps()) != len(s.All) {
		t.Errorf("apps: %v, %v", apps, err)
	}
}
