package place

import (
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Request asks for the nodes of one instance. What its pointers, slices and maps hold must not change while
// an Index knows it.
type Request struct {
	// Project is whose quota the instance counts against.
	Project string
	// Service is the ID of the service, Version its "model@version": instances of one version are spread.
	Service, Version string
	// Pool is the name of the pool whose nodes may be used.
	Pool string
	// What each member gets: millicores and bytes.
	CPUMillis, MemoryBytes, DiskBytes int64
	// Arch is the flavor's instruction set; empty for any.
	Arch string
	// ImageArches are the instruction sets that the image runs on; empty for any.
	ImageArches []string
	// Image is the digest of the image: nodes that have it are preferred. Empty when it is not known.
	Image string
	// Accelerator is nil when no device is asked for.
	Accelerator *fleetv1.Accelerator
	// MountSources are the host directories that are to be mounted.
	MountSources []string
	// HostPort is the port that the instance takes on the node's own address; 0 when it does not matter.
	HostPort int32
	// Rules narrow down and rank the nodes; nil for none.
	Rules *fleetv1.PlacementRules
	// Nodes is how many nodes the instance spans; above 1 it is a gang. 0 counts as 1.
	Nodes int
	// Priority decides what a reservation keeps from the request, and whom it may preempt.
	Priority int32

	// Prefer is a node that is taken before all others when it fits; empty for none.
	Prefer string
	// Avoid are nodes that are used only when no other fits: the service failed there lately.
	Avoid map[string]bool
	// Waited says that the request, when it does not fit, may have nodes reserved: it has waited for long,
	// or room is being made for it.
	Waited bool
	// Yields says that what is reserved for it is kept from nobody this time.
	Yields bool
	// Reserved are the nodes that were reserved for it last, which a new reservation prefers.
	Reserved []string
}

// NewRequest says what one instance of version v of the service asks for. The caller adds what it alone
// knows: Prefer, Avoid, Waited, Yields and Reserved.
func NewRequest(serviceID string, spec *fleetv1.ServiceSpec, v *fleetv1.ServiceVersion, flavor *fleetv1.Flavor, model *fleetv1.Model) Request {
	f := flavor.GetSpec()
	r := Request{
		Project: model.GetMeta().GetProject(), Service: serviceID, Version: VersionKey(v.GetModel(), v.GetModelVersion()), Pool: spec.GetPool(),
		CPUMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), DiskBytes: f.GetDiskBytes(),
		Arch: f.GetArch(), ImageArches: model.GetStatus().GetArches(), Image: model.GetStatus().GetImageDigest(),
		Rules: v.GetPlacement(), Nodes: int(v.GetNodes()), Priority: v.GetPriority(),
	}
	if arch := model.GetSpec().GetArch(); arch != "" {
		r.ImageArches = []string{arch}
	}
	if a := f.GetAccelerator(); a.GetCount() > 0 {
		r.Accelerator = a
		if vendor := model.GetSpec().GetAccelerator(); a.GetVendor() == "" && vendor != "" {
			r.Accelerator = proto.CloneOf(a)
			r.Accelerator.Vendor = vendor
		}
	}
	for _, m := range v.GetMounts() {
		r.MountSources = append(r.MountSources, m.GetSource())
	}
	if spec.GetNetwork() == fleetv1.NetworkHost && model.GetSpec().GetApi().GetFixedPort() {
		r.HostPort = model.GetSpec().GetApi().GetPort()
	}
	return r
}

// VersionKey names a model version within a service.
func VersionKey(model, version string) string { return model + "@" + version }

// members is how many nodes the request needs.
func (r *Request) members() int { return max(r.Nodes, 1) }

// devices is how many the request needs.
func (r *Request) devices() int {
	return int(r.Accelerator.GetCount())
}

// runsOn says whether the architecture suits both flavor and image.
func (r *Request) runsOn(arch string) bool {
	if r.Arch != "" && r.Arch != arch {
		return false
	}
	return len(r.ImageArches) == 0 || slices.Contains(r.ImageArches, arch)
}

// arches names what runsOn accepts, for people.
func (r *Request) arches() string {
	if r.Arch != "" && (len(r.ImageArches) == 0 || slices.Contains(r.ImageArches, r.Arch)) {
		return r.Arch
	}
	images := strings.Join(r.ImageArches, " or ")
	if r.Arch != "" {
		return r.Arch + " by the flavor but " + images + " by the image"
	}
	return images
}

// matches says whether a device is of the kind that the request asks for.
func (r *Request) matches(k kind) bool {
	a := r.Accelerator
	share := a.GetShare()
	if share == "whole" {
		share = ""
	}
	if a.GetVendor() != "" && a.GetVendor() != k.vendor || k.memory < a.GetMemoryMinBytes() || share != k.profile {
		return false
	}
	return r.isModel(k)
}

// isModel says whether the device's model is asked for, or any is.
func (r *Request) isModel(k kind) bool {
	if r.Accelerator.GetModel() == "" {
		return true
	}
	ok, err := path.Match(r.Accelerator.GetModel(), k.model)
	return ok && err == nil
}

// inside says whether the clean absolute directory dir is root or below it.
func inside(dir, root string) bool {
	dir, root = path.Clean(dir), path.Clean(root)
	return path.IsAbs(dir) && (dir == root || root == "/" || strings.HasPrefix(dir, root+"/"))
}
