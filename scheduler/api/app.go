package api

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of an app.
const (
	maxAppCodes    = 5
	maxAppServices = 100
)

// newCode makes a code of an app, and the secret that it is known by.
func newCode(now time.Time) (*fleetv1.AppCode, string) {
	secret := auth.NewSecret()
	return &fleetv1.AppCode{Id: strings.ToLower(rand.Text()[:8]), Sha256: auth.Hash(secret), CreateTime: timestamppb.New(now)}, secret
}

// shownApp leaves out the secrets, and the services that are deleted.
func shownApp(view state.ReadView, app *fleetv1.App) *fleetv1.App {
	app = proto.CloneOf(app)
	if app == nil {
		return nil
	}
	app.Services = slices.DeleteFunc(app.GetServices(), func(name string) bool {
		id := app.GetServiceIds()[name]
		return id != "" && view.ServiceByID(id) == nil
	})
	maps.DeleteFunc(app.GetServiceIds(), func(name, _ string) bool { return !slices.Contains(app.GetServices(), name) })
	app.Secret = nil
	for _, c := range app.GetCodes() {
		c.Sha256 = nil
	}
	return app
}

// bind binds an app to the services that it may look up, instead of those before.
func bind(view state.ReadView, field string, app *fleetv1.App, services []string) error {
	var v violations
	project := app.GetMeta().GetProject()
	app.Services, app.ServiceIds = services, map[string]string{}
	if len(services) > maxAppServices {
		v.add(field, "has %d entries, at most %d are allowed", len(services), maxAppServices)
	}
	for i, name := range services {
		at := elementOf(field, i)
		s := view.Service(project, name)
		app.ServiceIds[name] = s.GetMeta().GetId()
		if s == nil || ofJob(s) {
			v.add(at, "%s", missing("", "service", name, namesOf(realTime(view.Services(project)))).Msg)
		} else if s.GetMeta().GetName() != name {
			v.add(at, "%q is an ID: say the service's name, %q", name, s.GetMeta().GetName())
		}
		if slices.Contains(services[:i], name) {
			v.add(at, "%q stands twice", name)
		}
	}
	return v.err()
}

func (s *credentialServer) CreateApp(ctx context.Context, req *fleetv1.CreateAppRequest) (*fleetv1.CreateAppResponse, error) {
	asked, in := req.GetApp(), project(ctx, req.GetApp().GetMeta().GetProject())
	var v violations
	v.meta("app", asked.GetMeta(), false)
	if err := v.err(); err != nil {
		return nil, err
	}
	name, appKey, secret, resp := asked.GetMeta().GetName(), "APP"+rand.Text()[:17], rand.Text()+rand.Text()[:14], &fleetv1.CreateAppResponse{}
	sealed, err := s.seal(secret, auth.AboutApp(in, name))
	if err != nil {
		return nil, err
	}
	err = s.make(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		app := &fleetv1.App{Meta: newMeta(ctx, asked.GetMeta(), now), AppKey: appKey, Secret: sealed}
		needs, err := inProject(view, app.GetMeta())
		if err != nil {
			return nil, err
		}
		if err := bind(view, "app.services", app, asked.GetServices()); err != nil {
			return nil, err
		}
		switch {
		case view.App(in, name) != nil:
			return nil, refuse(codes.AlreadyExists, "app %q exists: delete it first, or choose another name", name)
		case len(view.Apps(in)) >= s.cfg.MaxAppsPerProject:
			return nil, refuse(codes.ResourceExhausted, "project %q has %d apps, and no more are allowed (max_apps_per_project of the schedulers' configuration): delete some", in, len(view.Apps(in)))
		}
		code, said := newCode(now)
		app.Codes = []*fleetv1.AppCode{code}
		resp.Secret, resp.Code = secret, said
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, app)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "make app "+in+"/"+name)
	view := s.view()
	resp.App = shownApp(view, view.App(in, name))
	return resp, nil
}

func (s *credentialServer) ListApps(ctx context.Context, req *fleetv1.ListAppsRequest) (*fleetv1.ListAppsResponse, error) {
	resp, view := &fleetv1.ListAppsResponse{}, s.view()
	for _, app := range view.Apps(project(ctx, req.GetProject())) {
		resp.Apps = append(resp.Apps, shownApp(view, app))
	}
	return resp, nil
}

// changeApp changes an app, or with a nil edit deletes it.
func (s *credentialServer) changeApp(ctx context.Context, req request, in, name, what string, edit func(view state.ReadView, app *fleetv1.App, now time.Time) error) (*fleetv1.App, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		old := view.App(in, name)
		if old == nil {
			return nil, missing("name", "app", name, namesOf(view.Apps(in)))
		}
		revision := old.GetMeta().GetRevision()
		if edit == nil {
			return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(revision, state.AppKey(in, name))}}, nil
		}
		app := proto.CloneOf(old)
		if err := edit(view, app, now); err != nil {
			return nil, err
		}
		if proto.Equal(app, old) {
			return nil, nil
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(revision, app)}}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, what+" "+in+"/"+name)
	view := s.view()
	return shownApp(view, view.App(in, name)), nil
}

func (s *credentialServer) BindApp(ctx context.Context, req *fleetv1.BindAppRequest) (*fleetv1.BindAppResponse, error) {
	in := project(ctx, req.GetProject())
	app, err := s.changeApp(ctx, req, in, req.GetName(), "bind app", func(view state.ReadView, app *fleetv1.App, _ time.Time) error {
		return bind(view, "services", app, req.GetServices())
	})
	return &fleetv1.BindAppResponse{App: app}, err
}

func (s *credentialServer) DeleteApp(ctx context.Context, req *fleetv1.DeleteAppRequest) (*fleetv1.DeleteAppResponse, error) {
	_, err := s.changeApp(ctx, req, project(ctx, req.GetProject()), req.GetName(), "delete app", nil)
	return &fleetv1.DeleteAppResponse{}, err
}

func (s *credentialServer) CreateAppCode(ctx context.Context, req *fleetv1.CreateAppCodeRequest) (*fleetv1.CreateAppCodeResponse, error) {
	resp := &fleetv1.CreateAppCodeResponse{}
	app, err := s.changeApp(ctx, req, project(ctx, req.GetProject()), req.GetName(), "make a code of app", func(_ state.ReadView, app *fleetv1.App, now time.Time) error {
		if len(app.GetCodes()) >= maxAppCodes {
			return refuse(codes.ResourceExhausted, "app %q has %d codes, and no more are allowed: revoke one", req.GetName(), maxAppCodes)
		}
		code, secret := newCode(now)
		app.Codes, resp.Code = append(app.GetCodes(), code), secret
		return nil
	})
	resp.App = app
	return resp, err
}

func (s *credentialServer) RevokeAppCode(ctx context.Context, req *fleetv1.RevokeAppCodeRequest) (*fleetv1.RevokeAppCodeResponse, error) {
	app, err := s.changeApp(ctx, req, project(ctx, req.GetProject()), req.GetName(), "revoke a code of app", func(_ state.ReadView, app *fleetv1.App, _ time.Time) error {
		var ids []string
		for _, c := range app.GetCodes() {
			ids = append(ids, c.GetId())
		}
		i := slices.Index(ids, req.GetId())
		if i < 0 {
			return missing("id", "code of the app with the ID", req.GetId(), ids)
		}
		app.Codes = slices.Delete(app.GetCodes(), i, i+1)
		return nil
	})
	return &fleetv1.RevokeAppCodeResponse{App: app}, err
}
