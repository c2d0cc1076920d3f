package place

import (
	"path"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Request asks for a node for one instance.
type Request struct {
	// Service is the ID of the service, for spreading its instances.
	Service string
	// Pool is the name of the pool whose nodes may be used.
	Pool string
	// What the instance gets: millicores and bytes.
	CPUMillis, MemoryBytes, DiskBytes int64
	// Arch is the flavor's instruction set; empty for any.
	Arch string
	// ImageArches are the instruction sets that the image runs on; empty for any.
	ImageArches []string
	// Accelerator is nil when no device is asked for.
	Accelerator *fleetv1.Accelerator
	// MountSources are the host directories that are to be mounted.
	MountSources []string
	// HostPort is the port that the instance takes on the node's own address; 0 when it does not matter.
	HostPort int32
	// Avoid are nodes that are used only when no other fits: the service failed there lately.
	Avoid map[string]bool
}

// NewRequest says what one instance of version v of the service asks for.
func NewRequest(serviceID string, spec *fleetv1.ServiceSpec, v *fleetv1.ServiceVersion, flavor *fleetv1.Flavor, model *fleetv1.Model) Request {
	f := flavor.GetSpec()
	r := Request{
		Service: serviceID, Pool: spec.GetPool(),
		CPUMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), DiskBytes: f.GetDiskBytes(),
		Arch: f.GetArch(), ImageArches: model.GetStatus().GetArches(),
	}
	if arch := model.GetSpec().GetArch(); arch != "" {
		r.ImageArches = []string{arch}
	}
	if a := f.GetAccelerator(); a.GetCount() > 0 {
		vendor := a.GetVendor()
		if vendor == "" {
			vendor = model.GetSpec().GetAccelerator()
		}
		r.Accelerator = &fleetv1.Accelerator{
			Vendor: vendor, Model: a.GetModel(), Count: a.GetCount(), MemoryMinBytes: a.GetMemoryMinBytes(),
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

// matches says whether the device is of the kind that the request asks for.
func (r *Request) matches(d *fleetv1.Device) bool {
	a := r.Accelerator
	if a.GetVendor() != "" && a.GetVendor() != d.GetVendor() || d.GetMemoryBytes() < a.GetMemoryMinBytes() {
		return false
	}
	if a.GetModel() == "" {
		return true
	}
	ok, err := path.Match(a.GetModel(), d.GetModel())
	return ok && err == nil
}

// below says whether the clean absolute directory dir is root or inside it.
func below(dir, root string) bool {
	dir, root = path.Clean(dir), path.Clean(root)
	return path.IsAbs(dir) && (dir == root || root == "/" || strings.HasPrefix(dir, root+"/"))
}
