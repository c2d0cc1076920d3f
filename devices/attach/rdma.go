package attach

import (
	"errors"
	"fmt"
	"path/filepath"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"
)

// rdma answers the edits for the host's RDMA devices.
func (a *Attacher) rdma() (*cdi.ContainerEdits, error) {
	dir := filepath.Join(a.cfg.Root, "/dev/infiniband")
	verbs, err := filepath.Glob(filepath.Join(dir, "uverbs*"))
	if err != nil {
		return nil, fmt.Errorf("look for RDMA devices: %w", err)
	}
	if len(verbs) == 0 {
		return nil, errors.New("RDMA devices are asked for, and this node has none (/dev/infiniband/uverbs*): load the adapter's driver and ib_uverbs")
	}
	if manager := filepath.Join(dir, "rdma_cm"); exists(manager) {
		verbs = append(verbs, manager)
	}
	edits := &cdispecs.ContainerEdits{}
	for _, path := range verbs {
		node, err := stated(cdispecs.DeviceNode{Path: "/dev/infiniband/" + filepath.Base(path), HostPath: path, Permissions: "rw"})
		if err != nil {
			return nil, fmt.Errorf("RDMA devices: %w", err)
		}
		edits.DeviceNodes = append(edits.DeviceNodes, node)
	}
	return &cdi.ContainerEdits{ContainerEdits: edits}, nil
}
