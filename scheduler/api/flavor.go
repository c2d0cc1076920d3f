package api

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type flavorServer struct {
	*API
	fleetv1.UnimplementedFlavorServiceServer
}

func (s *flavorServer) CreateFlavor(ctx context.Context, req *fleetv1.CreateFlavorRequest) (*fleetv1.CreateFlavorResponse, error) {
	asked := proto.CloneOf(req.GetFlavor())
	completeFlavorSpec(asked.GetSpec())
	var v violations
	v.flavor("flavor", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	name := asked.GetMeta().GetName()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		if old := view.Flavor(name); old != nil {
			stands := proto.CloneOf(old.GetSpec())
			completeFlavorSpec(stands) // it may be older than some field
			return nil, unchanged("flavor", name, old.GetMeta(), asked.GetMeta(), stands, asked.GetSpec())
		}
		f := &fleetv1.Flavor{Meta: newMeta(ctx, asked.GetMeta(), now), Spec: asked.GetSpec()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, f)}}, nil
	})
	if err != nil {
		return nil, err
	}
	f, err := findFlavor(s.view(), name)
	return &fleetv1.CreateFlavorResponse{Flavor: f}, err
}

func (s *flavorServer) ListFlavors(context.Context, *fleetv1.ListFlavorsRequest) (*fleetv1.ListFlavorsResponse, error) {
	return &fleetv1.ListFlavorsResponse{Flavors: s.view().Flavors()}, nil
}

func (s *flavorServer) GetFlavor(_ context.Context, req *fleetv1.GetFlavorRequest) (*fleetv1.GetFlavorResponse, error) {
	f, err := findFlavor(s.view(), req.GetName())
	return &fleetv1.GetFlavorResponse{Flavor: f}, err
}

func (s *flavorServer) DeleteFlavor(ctx context.Context, req *fleetv1.DeleteFlavorRequest) (*fleetv1.DeleteFlavorResponse, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		f, err := findFlavor(view, req.GetName())
		if err != nil {
			return nil, err
		}
		err = inUse(view, "flavor", req.GetName(), func(_ *fleetv1.Service, version *fleetv1.ServiceVersion) bool {
			return version.GetFlavor() == req.GetName()
		})
		if err != nil {
			return nil, err
		}
		key := state.Key{Kind: fleetv1.KindFlavor, Key: req.GetName()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(f.GetMeta().GetRevision(), key)}}, nil
	})
	return &fleetv1.DeleteFlavorResponse{}, err
}

func findFlavor(view state.ReadView, name string) (*fleetv1.Flavor, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if f := view.Flavor(name); f != nil {
		return f, nil
	}
	return nil, missing("", "flavor", name, namesOf(view.Flavors()))
}

// Limits of a flavor.
const (
	minCPU, maxCPU       = 10, 1024000
	minMemory, maxMemory = 16 << 20, 64 << 40
	maxDevices           = 64
)

func (v *violations) flavor(field string, f *fleetv1.Flavor) {
	v.meta(field, f.GetMeta(), true)
	spec, at := f.GetSpec(), field+".spec"
	v.between(at+".cpu_millis", spec.GetCpuMillis(), minCPU, maxCPU)
	v.between(at+".memory_bytes", spec.GetMemoryBytes(), minMemory, maxMemory)
	v.between(at+".disk_bytes", spec.GetDiskBytes(), 0, 1<<60)
	if spec.GetArch() != "" {
		v.oneOf(at+".arch", spec.GetArch(), "amd64", "arm64")
	}
	v.limits(at+".limits", spec.GetLimits())
	v.accelerator(at+".accelerator", spec.GetAccelerator())
}

// Ways to share and to join devices.
const (
	shareWhole   = "whole"
	domainAny    = "any"
	domainNVLink = "nvlink"
	domainHCCS   = "hccs"
	sameNode     = "node"
)

// completeFlavorSpec fills the defaults in.
func completeFlavorSpec(s *fleetv1.FlavorSpec) {
	if a := s.GetAccelerator(); a != nil {
		fill(&a.Share, shareWhole)
		fill(&a.Domain, domainAny)
		fill(&a.Same, sameNode)
	}
}

func (v *violations) accelerator(at string, a *fleetv1.Accelerator) {
	if a == nil {
		return
	}
	if a.GetVendor() != "" {
		v.oneOf(at+".vendor", a.GetVendor(), "nvidia", "ascend", "fake")
	}
	v.deviceModel(at+".model", a.GetModel())
	v.between(at+".count", int64(a.GetCount()), 1, maxDevices)
	v.between(at+".memory_min_bytes", a.GetMemoryMinBytes(), 0, maxMemory)
	if s := a.GetShare(); len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && !strings.ContainsRune(".+-", r) }) {
		v.add(at+".share", "%q is neither \"whole\" nor the profile of a slice such as \"1g.10gb\"", s)
	}
	v.oneOf(at+".domain", a.GetDomain(), domainAny, "numa", "pcie", domainNVLink, domainHCCS)
	if d, vendor := a.GetDomain(), a.GetVendor(); d == domainNVLink && vendor == "ascend" || d == domainHCCS && vendor == "nvidia" {
		v.add(at+".domain", "no device of %s is joined by %s", vendor, d)
	}
	v.oneOf(at+".same", a.GetSame(), sameNode)
}

// unchanged is nil when what stands is what is asked for, and else says what differs. The tags count.
func unchanged(kind, name string, oldMeta, newMeta *fleetv1.Meta, oldSpec, newSpec proto.Message) error {
	diff := differences("spec", oldSpec, newSpec)
	diff = append(diff, differences("meta", &fleetv1.Meta{Tags: oldMeta.GetTags()}, &fleetv1.Meta{Tags: newMeta.GetTags()})...)
	if len(diff) == 0 {
		return nil
	}
	return refuse(codes.AlreadyExists, "%s %q exists and can't be changed; it differs in %s: delete it first, or choose another name",
		kind, name, summary(diff))
}

// inUse is nil when no version of any service and no job uses it, and else says who does.
func inUse(view state.ReadView, kind, name string, uses func(*fleetv1.Service, *fleetv1.ServiceVersion) bool) error {
	var services, jobs []string
	for _, service := range realTime(view.Services("")) {
		for _, version := range service.GetSpec().GetVersions() {
			if uses(service, version) {
				services = append(services, service.GetMeta().GetProject()+"/"+service.GetMeta().GetName())
				break
			}
		}
	}
	for _, j := range view.Jobs("") {
		if version := state.VersionOfJob(j.GetSpec()); uses(serviceOfJob(j, version), version) {
			jobs = append(jobs, j.GetMeta().GetProject()+"/"+j.GetMeta().GetName())
		}
	}
	if len(services) > 0 {
		return refuse(codes.FailedPrecondition, "%s %q can't be deleted: %s: delete %s first", kind, name, usedBy("service", services), plural(len(services), "it", "them"))
	}
	if len(jobs) > 0 {
		return refuse(codes.FailedPrecondition, "%s %q can't be deleted: %s: delete %s first", kind, name, usedBy("job", jobs), plural(len(jobs), "it", "them"))
	}
	return nil
}
