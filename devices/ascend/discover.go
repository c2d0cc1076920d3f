package ascend

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const mebibyte = 1 << 20

func (b *Backend) driverVersion() string {
	if b.calls.driverVersion == nil {
		return ""
	}
	const size = 64 // API, dcmi_get_driver_version
	version, err := fill[[size]byte](func(out unsafe.Pointer) int32 { return b.calls.driverVersion(out, size) })
	if err != nil {
		b.missing("driver version", err)
		return ""
	}
	return text(version[:])
}

// describe answers what is known of the chip, the place-th one.
func (b *Backend) describe(at chip, place int) devices.Device {
	health, reason := b.health(at)
	before, known := b.seen[at]
	if known && health == fleetv1.Lost {
		before.Health, before.Reason, before.Links = health, reason, nil
		return before
	}
	d := devices.Device{Vendor: b.Vendor(), Health: health, Reason: reason, Index: place}
	if info, err := get[pcieInfo](b.calls.pcieInfo, at); err == nil {
		d.PCIAddress = fmt.Sprintf("%04x:%02x:%02x.%x", info.Domain, info.Bus, info.Slot, info.Function)
		d.NUMANode = b.numaNode(d.PCIAddress)
	} else {
		b.missing("PCI address", err)
	}
	b.number(at, &d)
	if d.MemoryBytes, _, _ = b.memory(at); d.MemoryBytes == 0 {
		d.MemoryBytes = before.MemoryBytes
	}
	d.CPUAffinity = b.affinity(at)
	if known {
		keep(&d, &before)
	}
	name, told := b.name(at)
	if d.Model = model(name, d.MemoryBytes); !told && known {
		d.Model = before.Model
	}
	d.ID = b.identity(at, d.PCIAddress)
	return d
}

// keep takes from a chip's last description what a busy driver doesn't tell now: none of that changes.
func keep(d, before *devices.Device) {
	if d.PCIAddress == "" {
		d.PCIAddress, d.NUMANode = before.PCIAddress, before.NUMANode
	}
	if d.LogicID == nil {
		d.LogicID, d.Index = before.LogicID, before.Index
	}
	if d.PhysicalID == nil {
		d.PhysicalID = before.PhysicalID
	}
	d.CPUAffinity = cmp.Or(d.CPUAffinity, before.CPUAffinity)
}

// health judges what the driver says; an alarm of the lowest level leaves the device at work.
func (b *Backend) health(at chip) (health, reason string) {
	level, err := get[uint32](b.calls.health, at)
	switch {
	case gone(err), err == nil && *level == healthNoDevice:
		return fleetv1.Lost, "the driver says that the device does not exist"
	case err != nil:
		b.missing("health", err)
		return fleetv1.Healthy, ""
	case *level < 2:
		return fleetv1.Healthy, ""
	default:
		word := map[uint32]string{2: "a major", 3: "a critical"}[*level]
		if word == "" {
			word = "an unknown"
		}
		return fleetv1.Unhealthy, fmt.Sprintf("%s alarm (health %d)%s", word, *level, b.alarms(at))
	}
}

// alarms is the error codes of an unhealthy chip, to be read after its health.
func (b *Backend) alarms(at chip) string {
	codes, err := b.errorCodes(at)
	if err != nil || len(codes) == 0 {
		return ""
	}
	words := make([]string, len(codes))
	for i, code := range codes {
		words[i] = fmt.Sprintf("0x%X", code)
	}
	return ": " + strings.Join(words, ", ")
}

// number fills in the numbers that programs and device files know the chip by.
func (b *Backend) number(at chip, d *devices.Device) {
	logic := at.device
	if !b.calls.second {
		told, err := get[int32](b.calls.logicID, at)
		if err != nil {
			b.missing("logic ID", err)
			return
		}
		logic = *told
	}
	d.LogicID, d.Index = new(int(logic)), int(logic)
	if b.calls.physicalID == nil {
		return
	}
	physical, err := fill[uint32](func(out unsafe.Pointer) int32 { return b.calls.physicalID(logic, out) })
	if err != nil {
		b.missing("physical ID", err)
		return
	}
	d.PhysicalID = new(int(*physical))
}

// memory answers the sizes of the chip's memory in bytes, and nil for what isn't known: chips without on-chip
// memory are asked for the other kind.
func (b *Backend) memory(at chip) (total int64, used, free *int64) {
	hbm, err := get[hbmInfo](b.calls.hbm, at)
	if err == nil && hbm.Size > 0 && hbm.Used <= hbm.Size {
		return sizes(hbm.Size, hbm.Size-hbm.Used)
	}
	other, second := get[memoryInfo](b.calls.memory, at)
	if second == nil && other.Size > 0 && other.Available <= other.Size {
		return sizes(other.Size, other.Available)
	}
	if err != nil {
		b.missing("memory", err)
	}
	return 0, nil, nil
}

func sizes(totalMiB, freeMiB uint64) (total int64, used, free *int64) {
	const limit = 1 << 40 // MiB, that bytes fit an int64
	if totalMiB > limit {
		return 0, nil, nil
	}
	total = int64(totalMiB) * mebibyte
	rest := int64(freeMiB) * mebibyte
	return total, new(total - rest), new(rest)
}

// name is the chip's, for example "Ascend910B3"; told: by the driver.
func (b *Backend) name(at chip) (name string, told bool) {
	info, err := get[chipInfo](b.calls.chipInfo, at)
	if err != nil {
		b.missing("chip name", err)
		return "Ascend", false
	}
	family, chip := text(info.Type[:]), text(info.Name[:])
	if strings.HasPrefix(chip, family) {
		family = ""
	}
	return cmp.Or(strings.ReplaceAll(family+chip, " ", ""), "Ascend"), true
}

// model is for example "Ascend910B3-64GB".
func model(name string, memory int64) string {
	if memory > 0 {
		name += fmt.Sprintf("-%dGB", (memory+(1<<29))>>30)
	}
	return name
}

// identity is the number burnt into the chip's die; where the driver doesn't tell it, the card's serial number
// and the chip's place on the card; else the place on the PCI bus; else the driver's address.
func (b *Backend) identity(at chip, pci string) string {
	kind := int32(dieV)
	if b.calls.second {
		kind = dieD
	}
	die, err := getKind[dieID](b.calls.die, at, kind)
	if err == nil && *die != (dieID{}) {
		return fmt.Sprintf("%08X-%08X-%08X-%08X-%08X", die[0], die[1], die[2], die[3], die[4])
	}
	if err != nil {
		b.missing("die ID", err)
	}
	if before := b.seen[at].ID; before != "" {
		return before // an ID doesn't change because the driver is busy
	}
	if label, err := get[elabelInfo](b.calls.elabel, at); err == nil {
		if serial := text(label.Serial[:]); serial != "" && serial != "NA" {
			return fmt.Sprintf("%s-%d", serial, at.device)
		}
	}
	if pci != "" {
		return "pci-" + pci
	}
	return fmt.Sprintf("card%d-chip%d", at.card, at.device)
}

func (b *Backend) affinity(at chip) string {
	if b.calls.affinity == nil {
		return ""
	}
	var length int32
	cpus, err := fill[[256]byte](func(out unsafe.Pointer) int32 { return b.calls.affinity(at, out, unsafe.Pointer(&length)) })
	if err != nil {
		b.missing("CPU affinity", err)
		return ""
	}
	return text(cpus[:])
}

func (b *Backend) numaNode(pci string) *int {
	content, err := os.ReadFile(filepath.Join(b.cfg.SysRoot, "bus/pci/devices", pci, "numa_node")) //nolint:gosec // below the kernel's own tree
	if err != nil {
		return nil
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || node < 0 {
		return nil
	}
	return &node
}

// link fills in the connections between devices. They are the same in both directions.
func (b *Backend) link(ctx context.Context, found []devices.Device) error {
	if b.calls.topology == nil {
		return nil
	}
	for i := range found {
		for j := i + 1; j < len(found); j++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if found[i].Health == fleetv1.Lost || found[j].Health == fleetv1.Lost {
				continue
			}
			here, there := b.chips[i], b.chips[j]
			kind, err := fill[int32](func(out unsafe.Pointer) int32 { return b.calls.topology(here, there, out) })
			if err != nil {
				b.missing("topology", err)
				continue
			}
			word := linkKind(*kind, b.calls.second || here.card == there.card)
			if word == "" {
				continue
			}
			found[i].Links = append(found[i].Links, devices.Link{Peer: found[j].ID, Kind: word})
			found[j].Links = append(found[j].Links, devices.Link{Peer: found[i].ID, Kind: word})
		}
	}
	for i := range found {
		slices.SortFunc(found[i].Links, func(a, b devices.Link) int { return strings.Compare(a.Peer, b.Peer) })
	}
	return nil
}

// linkKind is empty for a connection that the driver doesn't know. SIO joins the dies of one card.
func linkKind(told int32, sio bool) devices.LinkKind {
	switch told {
	case topologySYS:
		return devices.LinkSYS
	case topologyPHB:
		return devices.LinkPHB
	case topologyHCCS:
		return devices.LinkHCCS
	case topologyPXB:
		return devices.LinkPXB
	case topologyPIX:
		return devices.LinkPIX
	case topologySIO:
		if sio {
			return devices.LinkSIO
		}
	case topologyHCCSSw:
		return devices.LinkHCCSSw
	case topologyUB:
		return devices.LinkUB
	}
	return ""
}
