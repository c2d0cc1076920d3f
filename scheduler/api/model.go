package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/state"
)

type modelServer struct {
	*API
	fleetv1.UnimplementedModelServiceServer
}

const firstVersion = "0.0.1"

func (s *modelServer) CreateModel(ctx context.Context, req *fleetv1.CreateModelRequest) (*fleetv1.CreateModelResponse, error) {
	asked := proto.CloneOf(req.GetModel())
	if asked.GetSpec() == nil {
		return nil, invalid("model.spec", "is missing")
	}
	completeModelSpec(asked.Spec)
	var v violations
	v.model("model", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	meta, version := newMeta(ctx, asked.GetMeta(), time.Time{}), asked.GetSpec().GetVersion()
	var image registry.Image
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (_ *fleetv1.Write, err error) {
		if image.Digest == "" { // not for a request that was carried out before: its registry may be gone
			if image, err = s.resolve(ctx, asked.GetSpec()); err != nil {
				return nil, err
			}
			view = s.view()
		}
		m, stands, err := newModel(view, asked, meta.GetProject(), image)
		if err != nil {
			return nil, err
		}
		version = m.GetSpec().GetVersion()
		if stands {
			return nil, nil
		}
		m.Meta = newMeta(ctx, asked.GetMeta(), now)
		needs, err := inProject(view, m.Meta)
		if err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, m)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	view := s.view()
	if version == "" { // a repeated request, whose version was chosen the first time
		version = latestAt(view, meta.GetProject(), meta.GetName(), view.Request(requestScope(ctx, req.GetRequestId()), req.GetRequestId()).GetIndex())
	}
	m, err := findModel("", view, meta.GetProject(), meta.GetName(), version)
	return &fleetv1.CreateModelResponse{Model: m}, err
}

// resolve asks the registry what the model's image is now.
func (s *modelServer) resolve(ctx context.Context, spec *fleetv1.ModelSpec) (registry.Image, error) {
	image, err := s.cfg.Images.Resolve(ctx, spec.GetImage())
	if err != nil {
		return registry.Image{}, err
	}
	if arch := spec.GetArch(); arch != "" && !slices.Contains(image.Arches, arch) {
		return registry.Image{}, unfit("model.spec.arch", "image %q does not offer %q; it offers %s",
			spec.GetImage(), arch, strings.Join(image.Arches, ", "))
	}
	return image, nil
}

// latestAt is the newest version of those that existed at the Raft index; versions never change.
func latestAt(view state.ReadView, project, name string, index uint64) (version string) {
	for _, m := range view.Models(project, name) {
		if v := m.GetSpec().GetVersion(); m.GetMeta().GetRevision() <= index && (version == "" || state.CompareVersions(v, version) > 0) {
			version = v
		}
	}
	return version
}

// newModel works out the version to be stored; stands says that it is stored already. A model without a
// version stands when it is the same as the latest one.
func newModel(view state.ReadView, asked *fleetv1.Model, project string, image registry.Image) (m *fleetv1.Model, stands bool, err error) {
	m = &fleetv1.Model{Spec: proto.CloneOf(asked.GetSpec()), Status: &fleetv1.ModelStatus{
		State: fleetv1.ModelNormal, ImageDigest: image.Digest, Arches: image.Arches}}
	name := asked.GetMeta().GetName()
	old := view.Model(project, name, asked.GetSpec().GetVersion())
	if old == nil {
		fill(&m.Spec.Version, firstVersion)
		return m, false, nil
	}
	named := asked.GetSpec().GetVersion() != ""
	m.Spec.Version = old.GetSpec().GetVersion()
	diff := differences("spec", old.GetSpec(), m.GetSpec())
	diff = append(diff, differences("meta", &fleetv1.Meta{Tags: old.GetMeta().GetTags()}, &fleetv1.Meta{Tags: asked.GetMeta().GetTags()})...)
	if was := old.GetStatus().GetImageDigest(); was != image.Digest {
		diff = append(diff, difference{"the image's digest", was, image.Digest})
	}
	switch {
	case len(diff) == 0:
		return m, true, nil
	case named:
		return nil, false, refuse(codes.AlreadyExists,
			"model %q version %s exists and versions are immutable; it differs in %s: choose another version",
			name, m.GetSpec().GetVersion(), summary(diff))
	}
	if m.Spec.Version, err = nextVersion(m.Spec.Version); err != nil {
		return nil, false, err
	}
	return m, false, nil
}

func nextVersion(v string) (string, error) {
	var x, y, z uint64
	if _, err := fmt.Sscanf(v, "%d.%d.%d", &x, &y, &z); err != nil {
		return "", fmt.Errorf("raise version %q: %w", v, err)
	}
	next := fmt.Sprintf("%d.%d.%d", x, y, z+1)
	if !validVersion(next) {
		return "", refuse(codes.FailedPrecondition, "there is no patch version after %s: name the version", v)
	}
	return next, nil
}

func (s *modelServer) ListModels(ctx context.Context, req *fleetv1.ListModelsRequest) (*fleetv1.ListModelsResponse, error) {
	return &fleetv1.ListModelsResponse{Models: s.view().Models(project(ctx, req.GetProject()), req.GetName())}, nil
}

func (s *modelServer) GetModel(ctx context.Context, req *fleetv1.GetModelRequest) (*fleetv1.GetModelResponse, error) {
	m, err := findModel("", s.view(), project(ctx, req.GetProject()), req.GetName(), req.GetVersion())
	return &fleetv1.GetModelResponse{Model: m}, err
}

func (s *modelServer) DeleteModel(ctx context.Context, req *fleetv1.DeleteModelRequest) (*fleetv1.DeleteModelResponse, error) {
	in := project(ctx, req.GetProject())
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		found, err := findModel("", view, in, req.GetName(), req.GetVersion())
		if err != nil {
			return nil, err
		}
		doomed := []*fleetv1.Model{found}
		if req.GetVersion() == "" {
			doomed = view.Models(in, req.GetName())
		}
		write := &fleetv1.Write{}
		for _, m := range doomed {
			version := m.GetSpec().GetVersion()
			err := inUse(view, "model", req.GetName()+" "+version, func(s *fleetv1.Service, v *fleetv1.ServiceVersion) bool {
				return s.GetMeta().GetProject() == in && v.GetModel() == req.GetName() && v.GetModelVersion() == version
			})
			if err != nil {
				return nil, err
			}
			write.Mutations = append(write.Mutations, state.Delete(m.GetMeta().GetRevision(), state.ModelKey(in, req.GetName(), version)))
		}
		return write, nil
	})
	return &fleetv1.DeleteModelResponse{}, err
}

// findModel with an empty version answers the latest. field is the path for the error, or empty.
func findModel(field string, view state.ReadView, project, name, version string) (*fleetv1.Model, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if m := view.Model(project, name, version); m != nil {
		return m, nil
	}
	versions := view.Models(project, name)
	if len(versions) == 0 {
		return nil, missing(field, "model", name, namesOf(view.Models(project, "")))
	}
	var existing []string
	for _, m := range versions {
		existing = append(existing, m.GetSpec().GetVersion())
	}
	if field != "" {
		field += "_version"
	}
	return nil, missing(field, fmt.Sprintf("version of model %q called", name), version, existing)
}
