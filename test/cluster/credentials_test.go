package cluster

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client/direct"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Whatever credential a tenant has, the client library finds the endpoints with it, and with no other.
func TestEveryCredentialLooksUp(t *testing.T) {
	c := Start(t, Options{Nodes: 1, TLS: true})
	c.Declare()
	c.Deploy("iris", 1)
	c.Deploy("other", 1)
	c.WaitState("iris", fleetv1.ServiceRunning)
	c.WaitState("other", fleetv1.ServiceRunning)
	ctx := bounded(t)
	scopes := []*fleetv1.Scope{{Project: fleetv1.Default, Role: fleetv1.RoleLookup}}
	token, err := c.Client.Credentials.CreateToken(ctx, &fleetv1.CreateTokenRequest{Name: "shop", User: fleetv1.Default, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.Client.Credentials.CreateKey(ctx, &fleetv1.CreateKeyRequest{User: fleetv1.Default, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	app, err := c.Client.Credentials.CreateApp(ctx, &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop"}, Services: []string{"iris"}}})
	if err != nil {
		t.Fatal(err)
	}
	access := key.GetKey().GetMeta().GetName()
	for _, x := range []struct {
		name, service string
		credentials   direct.Credentials
		status        int
	}{
		{"token", "iris", direct.Credentials{Token: token.GetSecret()}, http.StatusOK},
		{"access key", "iris", direct.Credentials{AccessKey: access, SecretKey: key.GetSecret()}, http.StatusOK},
		{"app's key", "iris", direct.Credentials{AccessKey: app.GetApp().GetAppKey(), SecretKey: app.GetSecret()}, http.StatusOK},
		{"app's code", "iris", direct.Credentials{AppCode: app.GetCode()}, http.StatusOK},
		{"no credential", "iris", direct.Credentials{}, http.StatusUnauthorized},
		{"unknown token", "iris", direct.Credentials{Token: "drover-x"}, http.StatusUnauthorized},
		{"wrong secret", "iris", direct.Credentials{AccessKey: access, SecretKey: app.GetSecret()}, http.StatusUnauthorized},
		{"unknown key", "iris", direct.Credentials{AccessKey: "AKX", SecretKey: key.GetSecret()}, http.StatusUnauthorized},
		{"app of another service", "other", direct.Credentials{AppCode: app.GetCode()}, http.StatusForbidden},
		{"app's key for another service", "other", direct.Credentials{AccessKey: app.GetApp().GetAppKey(), SecretKey: app.GetSecret()}, http.StatusForbidden},
	} {
		t.Run(x.name, func(t *testing.T) {
			if got := lookUp(ctx, t, c, x.service, x.credentials); got != x.status {
				t.Errorf("%d, want %d", got, x.status)
			}
		})
	}
	if _, err := c.Client.Credentials.RevokeKey(ctx, &fleetv1.RevokeKeyRequest{Name: access}); err != nil {
		t.Fatal(err)
	}
	if got := lookUp(ctx, t, c, "iris", direct.Credentials{AccessKey: access, SecretKey: key.GetSecret()}); got != http.StatusUnauthorized {
		t.Errorf("a revoked key: %d", got)
	}
}

// An app that is bound to a service isn't to another one that has its name later, not even while it goes on with a watch.
func TestAppOfADeletedService(t *testing.T) {
	c := Start(t, Options{Nodes: 1, TLS: true})
	c.Declare()
	c.Deploy("iris", 1)
	c.WaitState("iris", fleetv1.ServiceRunning)
	ctx := bounded(t)
	app, err := c.Client.Credentials.CreateApp(ctx, &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "shop"}, Services: []string{"iris"}}})
	if err != nil {
		t.Fatal(err)
	}
	code := direct.Credentials{AppCode: app.GetCode()}
	following, err := direct.Follow(direct.Config{Schedulers: []string{"https://" + c.HTTPAddr()}, Service: "iris", CAFile: c.CAFile(), Credentials: code})
	if err != nil {
		t.Fatal(err)
	}
	defer following.Close()
	if err := following.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.Services.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := c.Client.Services.GetService(ctx, &fleetv1.GetServiceRequest{Name: "iris"})
		if status.Code(err) == codes.NotFound {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("the service is not gone: %v", err)
		}
	}
	if got := lookUp(ctx, t, c, "iris", code); got != http.StatusNotFound {
		t.Errorf("when it is deleted: %d", got)
	}
	c.Deploy("iris", 1)
	c.WaitState("iris", fleetv1.ServiceRunning)
	if got := lookUp(ctx, t, c, "iris", code); got != http.StatusForbidden {
		t.Errorf("when there is another of its name: %d", got)
	}
	for { // what it heard last, that the service was being deleted, it has asked about again by then, or does so soon
		list, _, err := following.Endpoints()
		if err != nil && len(list.HostEndpoints) == 0 {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("who has followed it has %v, %v", list, err)
		}
	}
	if bound, err := c.Client.Credentials.BindApp(ctx, &fleetv1.BindAppRequest{Name: "shop", Services: []string{"iris"}}); err != nil || len(bound.GetApp().GetServices()) != 1 {
		t.Fatalf("%v, %v", bound, err)
	}
	if got := lookUp(ctx, t, c, "iris", code); got != http.StatusOK {
		t.Errorf("when it is bound to that one: %d", got)
	}
}

// lookUp is the status that a program which follows the service gets.
func lookUp(ctx context.Context, t *testing.T, c *Cluster, service string, credentials direct.Credentials) int {
	t.Helper()
	s, err := direct.Follow(direct.Config{Schedulers: []string{"https://" + c.HTTPAddr()}, Service: service, CAFile: c.CAFile(), Credentials: credentials})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Wait(ctx)
	var refused *direct.LookupError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &refused):
		return refused.Status
	}
	t.Fatal(err)
	return 0
}
