package containerd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/drover-fleet/drover/runtime"
)

// Devices changes a container's specification, as its last change, so that it has these devices and no others.
// An error that isn't ctx's will come again until somebody has changed the host.
type Devices interface {
	Inject(ctx context.Context, spec *specs.Spec, ids []string, rdma bool) error
}

const libraryPath = "LD_LIBRARY_PATH"

// visibility lists the variables with which images choose devices. Some make a vendor's hook give all of
// a host's; others name devices by numbers that mean nothing here.
func visibility() []string {
	return []string{
		"NVIDIA_VISIBLE_DEVICES", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES", "NVIDIA_IMEX_CHANNELS",
		"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
		"ASCEND_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_RUNTIME_OPTIONS", "NPU_VISIBLE_DEVICES", "DROVER_DEVICE_IDS",
	}
}

// imageEnvironment answers what is taken from the image's: not which devices it wants to see. A container
// with devices has its library directories too when the request names some.
func imageEnvironment(image []string, s runtime.Spec) (env []string, request map[string]string) {
	request = s.Env
	for _, entry := range image {
		key, value, _ := strings.Cut(entry, "=")
		if slices.Contains(visibility(), key) {
			continue
		}
		if own, set := s.Env[key]; set && key == libraryPath && len(s.Devices) > 0 && value != "" && own != "" {
			request = maps.Clone(s.Env)
			request[key] = own + ":" + value
		}
		env = append(env, entry)
	}
	return env, request
}

// giveDevices is the specification's last change.
func (r *Runtime) giveDevices(ctx context.Context, s runtime.Spec, spec *specs.Spec) error {
	switch {
	case len(s.Devices) == 0 && !s.RDMA:
		return nil
	case r.cfg.Devices == nil:
		return fmt.Errorf("%w: %w: this node's runtime can't give any", runtime.ErrFatal, runtime.ErrDevice)
	}
	err := r.cfg.Devices.Inject(ctx, spec, s.Devices, s.RDMA)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w: %w", runtime.ErrFatal, runtime.ErrDevice, err)
}
