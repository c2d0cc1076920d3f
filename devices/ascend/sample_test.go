package ascend

import (
	"errors"
	"reflect"
	"testing"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/test/vendorlib"
)

// erase takes out of a device and its sample what a driver doesn't tell.
type erase = func(*devices.Device, *devices.Sample)

// symbols are the functions that the library may lack, under both names, and what is absent then; "" is a function
// that the generation never had.
var symbols = []struct {
	first, second string
	without       erase
}{
	{"dcmi_get_card_list", "", nothing},
	{"dcmi_get_card_num_list", "", nothing},
	{"dcmi_get_device_type", "dcmiv2_get_device_type", nothing},
	{"dcmi_get_driver_version", "dcmiv2_get_driver_version", func(d *devices.Device, _ *devices.Sample) { d.DriverVersion = "" }},
	{"dcmi_get_device_chip_info_v2", "", nothing},
	{"", "dcmiv2_get_device_chip_info", func(d *devices.Device, _ *devices.Sample) { d.Model = "Ascend-64GB" }},
	{"dcmi_get_device_pcie_info_v2", "dcmiv2_get_device_pcie_info", func(d *devices.Device, _ *devices.Sample) { d.PCIAddress, d.NUMANode = "", nil }},
	{"dcmi_get_card_elabel_v2", "dcmiv2_get_device_elabel_info", nothing},
	{"dcmi_get_device_die_v2", "", named("2102313LNR05-0")},
	{"", "dcmiv2_get_device_die_id", named("2102313LNR05-5")},
	{"dcmi_get_device_logic_id", "", func(d *devices.Device, _ *devices.Sample) { d.LogicID, d.PhysicalID = nil, nil }},
	{"dcmi_get_device_phyid_from_logicid", "dcmiv2_get_chip_phy_id_by_dev_id", func(d *devices.Device, _ *devices.Sample) { d.PhysicalID = nil }},
	{"dcmi_get_device_health", "dcmiv2_get_device_health", func(_ *devices.Device, s *devices.Sample) { s.HealthCode = nil }},
	{"dcmi_get_device_errorcode_v2", "dcmiv2_get_device_error_code_list", func(_ *devices.Device, s *devices.Sample) { s.ErrorCodes = nil }},
	{"dcmi_get_device_hbm_info", "dcmiv2_get_device_hbm_info", func(d *devices.Device, s *devices.Sample) {
		d.Model, d.MemoryBytes, s.MemoryUsedBytes, s.MemoryFreeBytes = "Ascend910B3", 0, nil, nil
	}},
	{"dcmi_get_device_memory_info_v3", "", nothing},
	{"dcmi_get_device_multi_utilization_rate", "dcmiv2_get_device_multi_utilization_rate", nothing},
	{"dcmi_get_device_utilization_rate", "dcmiv2_get_device_utilization_rate", func(_ *devices.Device, s *devices.Sample) { s.MemoryUtilisation = nil }},
	{"dcmi_get_device_frequency", "dcmiv2_get_device_frequency", func(_ *devices.Device, s *devices.Sample) { s.ClockHz, s.MemoryClockHz = nil, nil }},
	{"dcmi_get_device_temperature", "dcmiv2_get_device_temperature", func(_ *devices.Device, s *devices.Sample) { s.TemperatureC = nil }},
	{"dcmi_get_device_power_info", "dcmiv2_get_device_power_info", func(_ *devices.Device, s *devices.Sample) { s.PowerWatts = nil }},
	{"dcmi_get_device_ecc_info", "dcmiv2_get_device_ecc_info", func(_ *devices.Device, s *devices.Sample) { noECC(s) }},
	{"dcmi_get_device_resource_info", "dcmiv2_get_device_proc_mem_info", func(_ *devices.Device, s *devices.Sample) { s.Processes = nil }},
	{"dcmi_get_affinity_cpu_info_by_device_id", "dcmiv2_get_affinity_cpu_info_by_dev_id", func(d *devices.Device, _ *devices.Sample) { d.CPUAffinity = "" }},
	{"dcmi_get_topo_info_by_device_id", "dcmiv2_get_topo_info_by_device_id", func(d *devices.Device, _ *devices.Sample) { d.Links = nil }},
	{"dcmi_subscribe_fault_event", "dcmiv2_subscribe_fault_event", nothing},
}

func nothing(*devices.Device, *devices.Sample) {}

func named(id string) erase {
	return func(d *devices.Device, s *devices.Sample) { d.ID, s.DeviceID = id, id }
}

// Whatever symbol is missing: its figure is absent, and all others are as ever.
func TestMissingSymbols(t *testing.T) {
	first, second := vendorlib.NewDCMI(t, "-DNO_V2"), vendorlib.NewDCMI(t, "-DNO_V1")
	for _, c := range symbols {
		if c.first != "" {
			missing(t, first, c.first, c.without)
		}
		if c.second != "" {
			missing(t, second, c.second, c.without)
		}
	}
}

func missing(t *testing.T, lib *vendorlib.DCMI, symbol string, without erase) {
	t.Run(symbol, func(t *testing.T) {
		b := opened(t, lib.Without(t, symbol))
		found, samples := discovered(t, b), sampled(t, b, everything)
		if len(found) != 8 || len(samples) != 8 {
			t.Fatalf("%d devices, %d samples", len(found), len(samples))
		}
		d, s := npu(5), measured(5)
		without(&d, &s)
		if d.ID != die(5) { // all IDs are others then, and the links' ends with them
			d.Links, found[5].Links = nil, nil
		}
		if !reflect.DeepEqual(found[5], d) {
			t.Errorf("the device is\n%+v, not\n%+v", found[5], d)
		}
		if !reflect.DeepEqual(samples[5], s) {
			t.Errorf("the sample is\n%+v, not\n%+v", samples[5], s)
		}
	})
}

// Without these there is nothing to start from.
func TestMissingEssentials(t *testing.T) {
	first, second := vendorlib.NewDCMI(t, "-DNO_V2"), vendorlib.NewDCMI(t, "-DNO_V1")
	for symbol, lib := range map[string]*vendorlib.DCMI{
		"dcmi_init":                   first.Without(t, "dcmi_init"),
		"dcmi_get_device_num_in_card": first.Without(t, "dcmi_get_device_num_in_card"),
		"both lists":                  first.Without(t, "dcmi_get_card_list", "dcmi_get_card_num_list"),
		"dcmiv2_init":                 second.Without(t, "dcmiv2_init"),
		"dcmiv2_get_device_list":      second.Without(t, "dcmiv2_get_device_list"),
	} {
		if _, err := opened(t, lib).Discover(t.Context()); !errors.Is(err, errNoSymbol) {
			t.Errorf("without %s: %v", symbol, err)
		}
	}
}

func noECC(s *devices.Sample) {
	s.ECCCorrectedVolatile, s.ECCUncorrectedVolatile, s.RetiredPages = nil, nil, nil
	s.ECCCorrectedAggregate, s.ECCUncorrectedAggregate = nil, nil
}

// What the driver refuses, or says nonsense about, is absent and takes nothing along.
func TestAbsentFigures(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	for name, c := range map[string]struct {
		told    []string
		without func(*devices.Sample)
	}{
		"unsupported power":        {[]string{"fail get_device_power_info -8255"}, func(s *devices.Sample) { s.PowerWatts = nil }},
		"failing temperature":      {[]string{"fail get_device_temperature -8009"}, func(s *devices.Sample) { s.TemperatureC = nil }},
		"invalid temperature":      {[]string{"temperature 32765"}, func(s *devices.Sample) { s.TemperatureC = nil }},
		"unreadable temperature":   {[]string{"temperature 32767"}, func(s *devices.Sample) { s.TemperatureC = nil }},
		"unsupported bandwidth":    {[]string{"kind 10 -8255"}, func(s *devices.Sample) { s.MemoryUtilisation = nil }},
		"ECC off":                  {[]string{"ecc 0"}, noECC},
		"ECC not permitted":        {[]string{"fail get_device_ecc_info -8002"}, noECC},
		"too many error codes":     {[]string{"errors 5 129"}, func(s *devices.Sample) { s.ErrorCodes = nil }},
		"negative error codes":     {[]string{"errors 5 -1"}, func(s *devices.Sample) { s.ErrorCodes = nil }},
		"too many processes":       {[]string{"processes 5 33"}, func(s *devices.Sample) { s.Processes = nil }},
		"negative processes":       {[]string{"processes 5 -1"}, func(s *devices.Sample) { s.Processes = nil }},
		"processes in a container": {[]string{"fail get_processes -8013"}, func(s *devices.Sample) { s.Processes = nil }},
		"everything refused but health": {[]string{"fail * -8255", "fail get_device_health 0"}, func(s *devices.Sample) {
			*s = devices.Sample{DeviceID: s.DeviceID, HealthCode: s.HealthCode}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			lib.Tell(t)
			b := opened(t, lib)
			discovered(t, b)
			lib.Tell(t, c.told...)
			want := measured(5)
			c.without(&want)
			if got := sampled(t, b, everything)[5]; !reflect.DeepEqual(got, want) {
				t.Errorf("the sample is\n%+v, not\n%+v", got, want)
			}
		})
	}
}

// The structs of a driver that is newer than this package may be longer; what was read of them isn't trusted.
func TestLongerStructs(t *testing.T) {
	b := opened(t, vendorlib.NewDCMI(t, "-DWIDE"))
	if d := discovered(t, b)[5]; d.MemoryBytes != 0 || d.Model != "Ascend910B3" || d.ID != die(5) {
		t.Errorf("device %+v", d)
	}
	want := measured(5)
	noECC(&want)
	want.MemoryUsedBytes, want.MemoryFreeBytes = nil, nil
	if got := sampled(t, b, everything)[5]; !reflect.DeepEqual(got, want) {
		t.Errorf("the sample is\n%+v, not\n%+v", got, want)
	}
}

func TestChipWithoutHBM(t *testing.T) {
	lib := vendorlib.NewDCMI(t, "-DNO_V2")
	lib.Tell(t, "hbm 0")
	b := opened(t, lib)
	if d := discovered(t, b)[5]; d.MemoryBytes != 21534<<20 || d.Model != "Ascend910B3-21GB" {
		t.Errorf("device %+v", d)
	}
	s := sampled(t, b, everything)[5]
	if *s.MemoryUsedBytes != (21534-19995)<<20 || *s.MemoryFreeBytes != 19995<<20 || *s.ECCCorrectedVolatile != 6 {
		t.Errorf("used %d, free %d, ECC %d", *s.MemoryUsedBytes, *s.MemoryFreeBytes, *s.ECCCorrectedVolatile)
	}
}

func TestProcesses(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "processes 5 2")
	got := sampled(t, opened(t, lib), devices.Processes)
	want := []devices.Process{{PID: 4050, MemoryBytes: new(int64(1 << 30))}, {PID: 4051, MemoryBytes: new(int64(2 << 30))}}
	if !reflect.DeepEqual(got[5].Processes, want) || got[4].Processes == nil || len(got[4].Processes) != 0 {
		t.Errorf("processes %+v and %+v", got[5].Processes, got[4].Processes)
	}
}

// While a profiler runs, the cores' figures mean nothing; an idle chip's zeros are zeros.
func TestProfiling(t *testing.T) {
	both := vendorlib.NewDCMI(t)
	single := both.Without(t, "dcmi_get_device_multi_utilization_rate")
	for _, c := range []struct {
		name           string
		lib            *vendorlib.DCMI
		told           []string
		cores, overall *float64
	}{
		{"profiler", both, []string{"profiling 1"}, nil, nil},
		{"profiler, one figure a call", single, []string{"profiling 1"}, nil, new(0.45)},
		{"profiler, no overall figure", single, []string{"profiling 1", "kind 13 -8255"}, new(0.0), nil},
		{"idle", both, []string{"idle 1"}, new(0.0), new(0.0)},
		{"idle, one figure a call", single, []string{"idle 1"}, new(0.0), new(0.0)},
		{"call for all that tells nothing", both, []string{"multi0 1"}, new(0.15), new(0.45)},
		{"no AI core figure", single, []string{"kind 2 -8255"}, nil, new(0.45)},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.lib.Tell(t, c.told...)
			s := sampled(t, opened(t, c.lib), devices.Usage)[5]
			if !reflect.DeepEqual(s.Utilisation, c.cores) || !reflect.DeepEqual(s.OverallUtilisation, c.overall) {
				t.Errorf("cores %v, overall %v", value(s.Utilisation), value(s.OverallUtilisation))
			}
		})
	}
}

func value(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}
