//go:build cgo && linux

package nvidia

import (
	"cmp"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
)

// nvlinks are the active NVLinks of one GPU.
type nvlinks struct {
	known    bool           // NVML tells the state of at least one
	up       int64          // all
	direct   map[string]int // to a GPU, by its PCI address
	switched int            // to an NVSwitch
}

// readNVLinks counts the links of a GPU; where they lead only if peers are asked for.
func readNVLinks(a *asker, handle nvml.Device, peers bool) nvlinks {
	n := nvlinks{direct: map[string]int{}}
	for link := range nvml.NVLINK_MAX_LINKS {
		if a.bad == nvml.ERROR_GPU_IS_LOST || !a.lib.has(callNVLinkState) {
			break
		}
		state, ret := handle.GetNvLinkState(link)
		a.note(ret)
		if ret == nvml.ERROR_NOT_SUPPORTED && !n.known {
			break // a GPU without NVLink
		}
		if ret != nvml.SUCCESS {
			continue
		}
		n.known = true
		if state != nvml.FEATURE_ENABLED {
			continue
		}
		n.up++
		if !peers {
			continue
		}
		kind := ask(a, callNVLinkRemoteType, func() (nvml.IntNvLinkDeviceType, nvml.Return) {
			return handle.GetNvLinkRemoteDeviceType(link)
		})
		if kind != nil && *kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			n.switched++
			continue
		}
		if pci := ask(a, callNVLinkPCI, func() (nvml.PciInfo, nvml.Return) {
			return handle.GetNvLinkRemotePciInfo(link)
		}); pci != nil {
			n.direct[pciAddress(pci.Domain, pci.Bus, pci.Device)]++
		}
	}
	return n
}

// link fills in how the GPUs are connected. Slices have no links: NVLink doesn't reach them.
func (b *Backend) link(lib *library, found []*gpu) {
	a := &asker{lib: lib}
	whole := slices.DeleteFunc(slices.Clone(found), func(g *gpu) bool { return g.ParentID != "" || g.Health == lostHealth })
	nv := make([]nvlinks, len(whole))
	for i, g := range whole {
		nv[i] = readNVLinks(&asker{lib: lib}, g.handle, true)
		g.linksUp = nv[i].up
		g.Links = nil
	}
	for i, x := range whole {
		for j, y := range whole[:i] {
			count := max(nv[i].direct[y.PCIAddress], nv[j].direct[x.PCIAddress])
			if through := min(nv[i].switched, nv[j].switched); through > 0 && peersOverNVLink(a, x, y) {
				count += through
			}
			kind := devices.LinkNVLink
			if count == 0 {
				kind = pcieKind(a, x, y)
			}
			if kind == "" {
				continue
			}
			x.Links = append(x.Links, devices.Link{Peer: y.ID, Kind: kind, Count: count})
			y.Links = append(y.Links, devices.Link{Peer: x.ID, Kind: kind, Count: count})
		}
	}
	for _, g := range whole {
		slices.SortFunc(g.Links, func(x, y devices.Link) int { return cmp.Compare(x.Peer, y.Peer) })
	}
	for _, g := range found {
		if g.ParentID != "" {
			g.Links = nil
		}
	}
}

// peersOverNVLink says whether two GPUs on NVSwitches reach each other: the fabric may be partitioned.
func peersOverNVLink(a *asker, x, y *gpu) bool {
	status := ask(a, callP2PStatus, func() (nvml.GpuP2PStatus, nvml.Return) {
		return x.handle.GetP2PStatus(y.handle, nvml.P2P_CAPS_INDEX_NVLINK)
	})
	return status != nil && *status == nvml.P2P_STATUS_OK
}

// pcieKind says what is between two GPUs on PCIe, "" when NVML doesn't.
func pcieKind(a *asker, x, y *gpu) devices.LinkKind {
	level := ask(a, callAncestor, func() (nvml.GpuTopologyLevel, nvml.Return) {
		return x.handle.GetTopologyCommonAncestor(y.handle)
	})
	if level == nil {
		return ""
	}
	switch *level {
	case nvml.TOPOLOGY_INTERNAL, nvml.TOPOLOGY_SINGLE:
		return devices.LinkPIX
	case nvml.TOPOLOGY_MULTIPLE:
		return devices.LinkPXB
	case nvml.TOPOLOGY_HOSTBRIDGE, nvml.TOPOLOGY_NODE: // several bridges of one CPU are as one
		return devices.LinkPHB
	case nvml.TOPOLOGY_SYSTEM:
		return devices.LinkSYS
	}
	return ""
}
