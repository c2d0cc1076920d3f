package ascend

import (
	"fmt"
	"unsafe"
)

// chip is how the library's calls name an NPU: dcmi_* by the card and the chip's number on it, dcmiv2_* by
// the device's logic ID alone.
type chip struct{ card, device int32 }

// The forms of the library's calls; a nil one is a call that this driver lacks.
type (
	getter     func(at chip, out unsafe.Pointer) int32
	kindGetter func(at chip, kind int32, out unsafe.Pointer) int32
	listGetter func(at chip, out, count unsafe.Pointer) int32
)

// calls are the functions of one loaded library, under the names of either generation.
type calls struct {
	second bool // dcmiv2_*: addresses have no card

	start          func() int32
	list           func(count, ids unsafe.Pointer, length int32) int32
	chipsOnCard    func(card int32, count unsafe.Pointer) int32
	driverVersion  func(out unsafe.Pointer, size uint32) int32
	unitType       getter
	chipInfo       getter
	pcieInfo       getter
	elabel         getter
	die            kindGetter
	logicID        getter // nil in dcmiv2_*: it is the address
	physicalID     func(logic int32, out unsafe.Pointer) int32
	health         getter
	errorCodes     func(at chip, count, list unsafe.Pointer, length uint32) int32
	hbm            getter
	memory         getter
	multiUse       getter
	use            kindGetter
	frequency      kindGetter
	temperature    getter
	power          getter
	ecc            kindGetter
	processes      listGetter
	affinity       listGetter
	topology       func(a, b chip, out unsafe.Pointer) int32
	subscribeFault func(filter eventFilter, handler uintptr) int32
}

// firstGeneration binds the dcmi_* names.
func firstGeneration(lib uintptr) *calls {
	c := &calls{
		start:         bind[func() int32](lib, "dcmi_init"),
		list:          bind[func(count, ids unsafe.Pointer, length int32) int32](lib, "dcmi_get_card_list"),
		chipsOnCard:   bind[func(card int32, count unsafe.Pointer) int32](lib, "dcmi_get_device_num_in_card"),
		driverVersion: bind[func(out unsafe.Pointer, size uint32) int32](lib, "dcmi_get_driver_version"),
		physicalID:    bind[func(logic int32, out unsafe.Pointer) int32](lib, "dcmi_get_device_phyid_from_logicid"),
		unitType:      onCard(lib, "dcmi_get_device_type"),
		chipInfo:      onCard(lib, "dcmi_get_device_chip_info_v2"),
		pcieInfo:      onCard(lib, "dcmi_get_device_pcie_info_v2"),
		die:           kindOnCard(lib, "dcmi_get_device_die_v2"),
		health:        onCard(lib, "dcmi_get_device_health"),
		hbm:           onCard(lib, "dcmi_get_device_hbm_info"),
		memory:        onCard(lib, "dcmi_get_device_memory_info_v3"),
		multiUse:      onCard(lib, "dcmi_get_device_multi_utilization_rate"),
		use:           kindOnCard(lib, "dcmi_get_device_utilization_rate"),
		frequency:     kindOnCard(lib, "dcmi_get_device_frequency"),
		temperature:   onCard(lib, "dcmi_get_device_temperature"),
		power:         onCard(lib, "dcmi_get_device_power_info"),
		ecc:           kindOnCard(lib, "dcmi_get_device_ecc_info"),
		processes:     listOnCard(lib, "dcmi_get_device_resource_info"),
		affinity:      listOnCard(lib, "dcmi_get_affinity_cpu_info_by_device_id"),
	}
	if c.list == nil {
		c.list = bind[func(count, ids unsafe.Pointer, length int32) int32](lib, "dcmi_get_card_num_list")
	}
	if c.chipInfo == nil {
		c.chipInfo = onCard(lib, "dcmi_get_device_chip_info")
	}
	if f := bind[func(card int32, out unsafe.Pointer) int32](lib, "dcmi_get_card_elabel_v2"); f != nil {
		c.elabel = func(at chip, out unsafe.Pointer) int32 { return f(at.card, out) }
	}
	if f := bind[func(out unsafe.Pointer, card, device int32) int32](lib, "dcmi_get_device_logic_id"); f != nil {
		c.logicID = func(at chip, out unsafe.Pointer) int32 { return f(out, at.card, at.device) }
	}
	type codes = func(card, device int32, count, list unsafe.Pointer, length uint32) int32
	if f := bind[codes](lib, "dcmi_get_device_errorcode_v2"); f != nil {
		c.errorCodes = func(at chip, count, list unsafe.Pointer, length uint32) int32 {
			return f(at.card, at.device, count, list, length)
		}
	}
	type pair = func(card1, device1, card2, device2 int32, out unsafe.Pointer) int32
	if f := bind[pair](lib, "dcmi_get_topo_info_by_device_id"); f != nil {
		c.topology = func(a, b chip, out unsafe.Pointer) int32 { return f(a.card, a.device, b.card, b.device, out) }
	}
	type subscribe = func(card, device int32, filter eventFilter, handler uintptr) int32
	if f := bind[subscribe](lib, "dcmi_subscribe_fault_event"); f != nil {
		c.subscribeFault = func(filter eventFilter, handler uintptr) int32 { return f(allDevices, allDevices, filter, handler) }
	}
	return c
}

// secondGeneration binds the dcmiv2_* names.
func secondGeneration(lib uintptr) *calls {
	c := &calls{
		second:        true,
		start:         bind[func() int32](lib, "dcmiv2_init"),
		driverVersion: bind[func(out unsafe.Pointer, size uint32) int32](lib, "dcmiv2_get_driver_version"),
		physicalID:    bind[func(logic int32, out unsafe.Pointer) int32](lib, "dcmiv2_get_chip_phy_id_by_dev_id"),
		unitType:      onDevice(lib, "dcmiv2_get_device_type"),
		chipInfo:      onDevice(lib, "dcmiv2_get_device_chip_info"),
		pcieInfo:      onDevice(lib, "dcmiv2_get_device_pcie_info"),
		elabel:        onDevice(lib, "dcmiv2_get_device_elabel_info"),
		die:           kindOnDevice(lib, "dcmiv2_get_device_die_id"),
		health:        onDevice(lib, "dcmiv2_get_device_health"),
		hbm:           onDevice(lib, "dcmiv2_get_device_hbm_info"),
		multiUse:      onDevice(lib, "dcmiv2_get_device_multi_utilization_rate"),
		use:           kindOnDevice(lib, "dcmiv2_get_device_utilization_rate"),
		frequency:     kindOnDevice(lib, "dcmiv2_get_device_frequency"),
		temperature:   onDevice(lib, "dcmiv2_get_device_temperature"),
		power:         onDevice(lib, "dcmiv2_get_device_power_info"),
		ecc:           kindOnDevice(lib, "dcmiv2_get_device_ecc_info"),
		processes:     listOnDevice(lib, "dcmiv2_get_device_proc_mem_info"),
		affinity:      listOnDevice(lib, "dcmiv2_get_affinity_cpu_info_by_dev_id"),
	}
	type list = func(ids, count unsafe.Pointer, length int32) int32
	if f := bind[list](lib, "dcmiv2_get_device_list"); f != nil {
		c.list = func(count, ids unsafe.Pointer, length int32) int32 { return f(ids, count, length) }
	}
	type codes = func(device int32, count, list unsafe.Pointer, length uint32) int32
	if f := bind[codes](lib, "dcmiv2_get_device_error_code_list"); f != nil {
		c.errorCodes = func(at chip, count, list unsafe.Pointer, length uint32) int32 {
			return f(at.device, count, list, length)
		}
	}
	type pair = func(device1, device2 int32, out unsafe.Pointer) int32
	if f := bind[pair](lib, "dcmiv2_get_topo_info_by_device_id"); f != nil {
		c.topology = func(a, b chip, out unsafe.Pointer) int32 { return f(a.device, b.device, out) }
	}
	type subscribe = func(device int32, filter eventFilter, handler uintptr) int32
	if f := bind[subscribe](lib, "dcmiv2_subscribe_fault_event"); f != nil {
		c.subscribeFault = func(filter eventFilter, handler uintptr) int32 { return f(allDevices, filter, handler) }
	}
	return c
}

func onCard(lib uintptr, name string) getter {
	f := bind[func(card, device int32, out unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, out unsafe.Pointer) int32 { return f(at.card, at.device, out) }
}

func kindOnCard(lib uintptr, name string) kindGetter {
	f := bind[func(card, device, kind int32, out unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, kind int32, out unsafe.Pointer) int32 { return f(at.card, at.device, kind, out) }
}

func listOnCard(lib uintptr, name string) listGetter {
	f := bind[func(card, device int32, out, count unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, out, count unsafe.Pointer) int32 { return f(at.card, at.device, out, count) }
}

func onDevice(lib uintptr, name string) getter {
	f := bind[func(device int32, out unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, out unsafe.Pointer) int32 { return f(at.device, out) }
}

func kindOnDevice(lib uintptr, name string) kindGetter {
	f := bind[func(device, kind int32, out unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, kind int32, out unsafe.Pointer) int32 { return f(at.device, kind, out) }
}

func listOnDevice(lib uintptr, name string) listGetter {
	f := bind[func(device int32, out, count unsafe.Pointer) int32](lib, name)
	if f == nil {
		return nil
	}
	return func(at chip, out, count unsafe.Pointer) int32 { return f(at.device, out, count) }
}

// get asks g about the chip.
func get[T any](g getter, at chip) (*T, error) {
	if g == nil {
		return nil, errNoSymbol
	}
	return fill[T](func(out unsafe.Pointer) int32 { return g(at, out) })
}

// getKind asks g about one kind of what it tells of the chip.
func getKind[T any](g kindGetter, at chip, kind int32) (*T, error) {
	if g == nil {
		return nil, errNoSymbol
	}
	return fill[T](func(out unsafe.Pointer) int32 { return g(at, kind, out) })
}

// chips answers every NPU; a card's controller isn't one.
func (c *calls) chips() ([]chip, error) {
	var count int32
	cards, err := fill[[maxCards]int32](func(out unsafe.Pointer) int32 { return c.list(unsafe.Pointer(&count), out, maxCards) })
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	if count < 0 || count > maxCards {
		return nil, fmt.Errorf("list devices: the driver counts %d", count)
	}
	var found []chip
	var failed error
	for _, id := range cards[:count] {
		if c.second {
			found = append(found, chip{device: id})
			continue
		}
		onCard, err := fill[int32](func(out unsafe.Pointer) int32 { return c.chipsOnCard(id, out) })
		if err != nil {
			failed = fmt.Errorf("count the chips of card %d: %w", id, err)
			continue // a card that fell off its bus hides no other
		}
		for device := range min(max(*onCard, 0), maxCards) {
			found = append(found, chip{card: id, device: device})
		}
	}
	if len(found) == 0 && failed != nil {
		return nil, failed
	}
	npus := found[:0]
	for _, at := range found {
		if unit, err := get[int32](c.unitType, at); err != nil || *unit == unitNPU {
			npus = append(npus, at)
		}
	}
	return npus, nil
}

// usable says whether the library has what nothing works without.
func (c *calls) usable() bool {
	return c.start != nil && c.list != nil && (c.second || c.chipsOnCard != nil)
}
