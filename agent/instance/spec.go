package instance

import (
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

const defaultPort = 8080

// Hook changes the specification of a container before it is created. Its error keeps the container from
// being made: for good when it wraps runtime.ErrFatal.
type Hook struct {
	Name string
	// Reason of the event that tells an error; empty: none.
	Reason  string
	Prepare func(inst *fleetv1.Instance, spec *runtime.Spec) error
}

// containerSpec answers what the instance's present attempt is made from, before the hooks.
func containerSpec(inst *fleetv1.Instance) runtime.Spec {
	in, o := inst.GetSpec(), inst.GetObserved()
	port := int(in.GetApi().GetPort())
	if port == 0 {
		port = defaultPort
	}
	s := runtime.Spec{
		ID: ContainerID(inst.GetMeta().GetId(), o.GetAttempt()),
		Labels: map[string]string{
			runtime.LabelInstance: inst.GetMeta().GetId(), runtime.LabelService: in.GetServiceId(),
			runtime.LabelGeneration: strconv.FormatUint(in.GetServiceGeneration(), 10),
			runtime.LabelEpoch:      strconv.FormatUint(in.GetEpoch(), 10),
			runtime.LabelAttempt:    strconv.FormatUint(uint64(o.GetAttempt()), 10),
		},
		Image: in.GetImage(), Digest: in.GetImageDigest(), Command: in.GetCommand(),
		Env: map[string]string{}, Hostname: inst.GetMeta().GetName(),
		CPUMillis: in.GetCpuMillis(), MemoryBytes: in.GetMemoryBytes(),
		ShmBytes: in.GetLimits().GetShmBytes(), Memlock: in.GetLimits().GetMemlockBytes(),
		Nofile: in.GetLimits().GetNofile(), Pids: in.GetLimits().GetPids(),
		ReadOnlyRoot: in.GetReadOnlyRoot(),
		Devices:      in.GetDeviceIds(), RDMA: in.GetLimits().GetRdma(),
		HostNetwork: in.GetNetwork() == fleetv1.NetworkHost, Port: port,
	}
	if s.HostNetwork {
		s.Port = int(o.GetPort())
	}
	maps.Copy(s.Env, in.GetEnv())
	s.Env["PORT"] = strconv.Itoa(s.Port)
	s.Env["DROVER_INSTANCE"] = inst.GetMeta().GetId()
	s.Env["DROVER_SERVICE"] = in.GetServiceName()
	if ids := in.GetDeviceIds(); len(ids) > 0 {
		s.Env["DROVER_DEVICE_IDS"] = strings.Join(ids, ",")
	}
	for _, mount := range in.GetMounts() {
		s.Mounts = append(s.Mounts, runtime.Mount{Source: mount.GetSource(), Target: mount.GetPath(), ReadOnly: mount.GetReadOnly()})
	}
	return s
}

// MountHook allows only sources that lie, with every symbolic link followed, below one of dirs, and mounts
// what the links led to, so that changing a link later leads nowhere else.
func MountHook(dirs []string) Hook {
	return Hook{Name: "mounts", Reason: "MountFailed", Prepare: func(_ *fleetv1.Instance, spec *runtime.Spec) error {
		for i, mount := range spec.Mounts {
			source, err := filepath.EvalSymlinks(mount.Source)
			if err != nil {
				return fmt.Errorf("mount %s: %w: %w", mount.Source, err, runtime.ErrFatal)
			}
			if !below(source, dirs) {
				return fmt.Errorf("mount %s: it leads to %s, which is in none of the directories allowed on this node (%s): %w",
					mount.Source, source, strings.Join(dirs, ", "), runtime.ErrFatal)
			}
			spec.Mounts[i].Source = source
		}
		return nil
	}}
}

func below(path string, dirs []string) bool {
	for _, dir := range dirs {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue // a directory that isn't there allows nothing
		}
		if rel, err := filepath.Rel(real, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return true
		}
	}
	return false
}
