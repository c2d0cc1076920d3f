package api

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// admit checks a new service against everything that it refers to, and fills in the model versions.
func (a *API) admit(view state.ReadView, s *fleetv1.Service) error {
	spec, at := s.GetSpec(), "service.spec"
	pool, err := admitPool(view, at, s)
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for i, version := range spec.GetVersions() {
		here := fmt.Sprintf("%s.versions[%d]", at, i)
		if err := a.admitVersion(view, s, pool, here, "real-time", version); err != nil {
			return err
		}
		key := version.GetModel() + " " + version.GetModelVersion()
		if first, twice := seen[key]; twice {
			return invalid(here, "is the same model version (%s) as versions[%d]", key, first)
		}
		seen[key] = i
	}
	return nil
}

// admitPool answers the service's pool, if its account may use it.
func admitPool(view state.ReadView, at string, s *fleetv1.Service) (*fleetv1.Pool, error) {
	pool := view.Pool(s.GetSpec().GetPool())
	if pool == nil || !openTo(pool, s.GetMeta().GetAccount()) {
		return nil, missing(at+".pool", "pool", s.GetSpec().GetPool(), namesOf(poolsOf(view, s.GetMeta().GetAccount())))
	}
	return pool, nil
}

// admitVersion checks a version that is deployed as a type of SPEC §2, and fills in its model version. at is its field.
func (a *API) admitVersion(view state.ReadView, s *fleetv1.Service, pool *fleetv1.Pool, at, deployType string, version *fleetv1.ServiceVersion) error {
	flavor := view.Flavor(version.GetFlavor())
	if flavor == nil {
		return missing(at+".flavor", "flavor", version.GetFlavor(), namesOf(view.Flavors()))
	}
	model, err := findModel(at+".model", view, s.GetMeta().GetProject(), version.GetModel(), version.GetModelVersion())
	if err != nil {
		return err
	}
	version.ModelVersion = model.GetSpec().GetVersion()
	named := fmt.Sprintf("model %q version %s", version.GetModel(), version.GetModelVersion())
	if state := model.GetStatus().GetState(); state != fleetv1.ModelNormal {
		return unfit(at+".model_version", "%s is %s (%s); only Normal versions deploy", named, state, model.GetStatus().GetReason())
	}
	if types := model.GetSpec().GetDeployTypes(); !slices.Contains(types, deployType) {
		return unfit(at+".model", "%s deploys as %s, not as %s", named, strings.Join(types, ", "), deployType)
	}
	if err := matches(at+".flavor", named, model, flavor); err != nil {
		return err
	}
	if err := allowedMounts(view, pool, at, version); err != nil {
		return err
	}
	if err := admitPinned(pool, at, version); err != nil {
		return err
	}
	request := place.NewRequest(s.GetMeta().GetId(), s.GetSpec(), version, flavor, model)
	if reason, never := a.possible.NeverFits(view, request); never {
		return unfit(at+".flavor", "no node of pool %q can ever hold flavor %q: %s", s.GetSpec().GetPool(), version.GetFlavor(), reason)
	}
	return nil
}

// unfit is a FailedPrecondition that names a field.
func unfit(field, format string, args ...any) *Error {
	e := invalid(field, format, args...)
	e.Code = codes.FailedPrecondition
	return e
}

// matches checks that the flavor offers what the model's image needs.
func matches(field, named string, model *fleetv1.Model, flavor *fleetv1.Flavor) error {
	offered := model.GetStatus().GetArches()
	if arch := model.GetSpec().GetArch(); arch != "" {
		offered = []string{arch}
	}
	name := flavor.GetMeta().GetName()
	if arch := flavor.GetSpec().GetArch(); arch != "" && len(offered) > 0 && !slices.Contains(offered, arch) {
		return unfit(field, "flavor %q is for %s, but %s runs on %s", name, arch, named, strings.Join(offered, ", "))
	}
	needs := model.GetSpec().GetAccelerator()
	has := flavor.GetSpec().GetAccelerator()
	switch {
	case needs == "":
		return nil
	case has.GetCount() == 0:
		return unfit(field, "flavor %q has no accelerator, but %s needs one of %s", name, named, needs)
	case has.GetVendor() != "" && has.GetVendor() != needs:
		return unfit(field, "flavor %q has accelerators of %s, but %s needs one of %s", name, has.GetVendor(), named, needs)
	}
	return nil
}

// allowedMounts checks that at least one node of a dedicated pool allows each mount. A pool without
// nodes yet says nothing: the instances wait for a node that does.
func allowedMounts(view state.ReadView, pool *fleetv1.Pool, at string, version *fleetv1.ServiceVersion) error {
	if len(version.GetMounts()) == 0 {
		return nil
	}
	if pool.GetSpec().GetType() != fleetv1.PoolDedicated {
		return unfit(at+".mounts", "pool %q is %s; mounts are for dedicated pools only", pool.GetMeta().GetName(), pool.GetSpec().GetType())
	}
	nodes := view.PoolNodes(pool)
	if len(nodes) == 0 {
		return nil
	}
	allowed := map[string]bool{}
	for _, n := range nodes {
		for _, d := range n.GetFacts().GetMountDirs() {
			allowed[path.Clean(d)] = true
		}
	}
	for i, m := range version.GetMounts() {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(allowed)), func(dir string) bool { return below(m.GetSource(), dir) }) {
			list := "none allows any"
			if len(allowed) > 0 {
				list = "allowed are directories below " + strings.Join(slices.Sorted(maps.Keys(allowed)), ", ")
			}
			return unfit(fmt.Sprintf("%s.mounts[%d].source", at, i), "no node of pool %q allows mounting %s; %s",
				pool.GetMeta().GetName(), m.GetSource(), list)
		}
	}
	return nil
}

func below(file, dir string) bool {
	file = path.Clean(file)
	return file == dir || dir == "/" || strings.HasPrefix(file, dir+"/")
}
