package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// deviceFigure is one family of what a device measures; of answers nil when the figure is absent.
type deviceFigure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*devices.Reading) *float64
}

// deviceLabels are those of every family about one device. Nobody holds it: the last three are empty.
var deviceLabels = []string{"node", "vendor", "model", "uuid", "index", "service", "version", "instance"}

// Words of the state sets. None stands for no action.
var (
	healths = []string{fleetv1.Healthy, fleetv1.Unhealthy, fleetv1.Unresponsive, fleetv1.Lost}
	actions = []string{noAction, fleetv1.ActionObserve, fleetv1.ActionDrain, fleetv1.ActionEvict, fleetv1.ActionResetNeeded, fleetv1.ActionRebootNeeded}
)

const noAction = "none"

// deviceCollector collects drover_device_* from the registry's memory; a scrape asks no driver.
type deviceCollector struct {
	src                                          Sources
	health, action, memory, age                  *prometheus.Desc
	xids, signals                                *prometheus.Desc
	success, duration, scrapes, failed, declared *prometheus.Desc
	figures                                      []deviceFigure
}

func newDeviceCollector(src Sources) *deviceCollector {
	vendor := func(name, help string) *prometheus.Desc { return desc("device_"+name, help, "node", "vendor") }
	return &deviceCollector{
		src:      src,
		health:   deviceDesc("health", "1 for the state that the device's health is in, 0 for the others.", "state"),
		action:   deviceDesc("action", "1 for what the device's state asks for, 0 for the rest.", "action"),
		memory:   deviceDesc("memory_bytes", "Memory of the device, used or not."),
		age:      deviceDesc("sample_age_seconds", "Time since the device's figures were measured, by group of figures.", "figures"),
		xids:     deviceDesc("xids_total", "XIDs that the driver reported since the agent started, by number.", "xid"),
		signals:  deviceDesc("signals_total", "What the driver reported besides XIDs since the agent started: memory errors, faults, resets, lost devices.", "kind", "code"),
		success:  vendor("scrape_success", "1 while the vendor's driver answers."),
		duration: vendor("scrape_duration_seconds", "How long the last call to the vendor's driver took."),
		scrapes:  vendor("scrapes_total", "Calls to the vendor's driver."),
		failed:   vendor("scrape_failures_total", "Calls to the vendor's driver that failed."),
		declared: vendor("declared", "Devices that the node's configuration says it has."),
		figures:  deviceFigures(),
	}
}

func deviceDesc(name, help string, more ...string) *prometheus.Desc {
	return desc("device_"+name, help, slices.Concat(deviceLabels, more)...)
}

func deviceFigures() []deviceFigure {
	const level, total = prometheus.GaugeValue, prometheus.CounterValue
	f := func(kind prometheus.ValueType, name, help string, of func(*devices.Reading) *float64) deviceFigure {
		return deviceFigure{deviceDesc(name, help), kind, of}
	}
	return []deviceFigure{
		f(level, "utilisation_ratio", "How busy the device is.", func(r *devices.Reading) *float64 { return r.Utilisation }),
		f(level, "overall_utilisation_ratio", "Ascend: how busy the whole chip is.", func(r *devices.Reading) *float64 { return r.OverallUtilisation }),
		f(level, "memory_utilisation_ratio", "How busy the device's memory is.", func(r *devices.Reading) *float64 { return r.MemoryUtilisation }),
		f(level, "memory_used_bytes", "Device memory in use.", func(r *devices.Reading) *float64 { return number(r.MemoryUsedBytes) }),
		f(level, "memory_free_bytes", "Device memory that is free.", func(r *devices.Reading) *float64 { return number(r.MemoryFreeBytes) }),
		f(level, "memory_reserved_bytes", "Device memory that the driver keeps.", func(r *devices.Reading) *float64 { return number(r.MemoryReservedBytes) }),
		f(level, "temperature_celsius", "Temperature of the device.", func(r *devices.Reading) *float64 { return r.TemperatureC }),
		f(level, "power_watts", "Power that the device draws.", func(r *devices.Reading) *float64 { return r.PowerWatts }),
		f(level, "clock_hertz", "Clock of the compute units.", func(r *devices.Reading) *float64 { return number(r.ClockHz) }),
		f(level, "memory_clock_hertz", "Clock of the memory.", func(r *devices.Reading) *float64 { return number(r.MemoryClockHz) }),
		f(level, "throttled", "1 while something holds the clock down.", throttled),
		f(total, "ecc_corrected_total", "Memory errors corrected since the driver was loaded.", func(r *devices.Reading) *float64 { return number(r.ECCCorrectedVolatile) }),
		f(total, "ecc_uncorrected_total", "Memory errors not corrected since the driver was loaded.", func(r *devices.Reading) *float64 { return number(r.ECCUncorrectedVolatile) }),
		f(total, "ecc_lifetime_corrected_total", "Memory errors corrected in the device's life.", func(r *devices.Reading) *float64 { return number(r.ECCCorrectedAggregate) }),
		f(total, "ecc_lifetime_uncorrected_total", "Memory errors not corrected in the device's life.", func(r *devices.Reading) *float64 { return number(r.ECCUncorrectedAggregate) }),
		f(total, "remapped_corrected_rows_total", "Rows of memory remapped after corrected errors.", func(r *devices.Reading) *float64 { return number(r.RemappedCorrected) }),
		f(total, "remapped_uncorrected_rows_total", "Rows of memory remapped after uncorrected errors.", func(r *devices.Reading) *float64 { return number(r.RemappedUncorrected) }),
		f(level, "remap_pending", "1 while a row waits for a reset to be remapped.", func(r *devices.Reading) *float64 { return flag(r.RemapPending) }),
		f(level, "remap_failed", "1 after a row couldn't be remapped.", func(r *devices.Reading) *float64 { return flag(r.RemapFailed) }),
		f(level, "retired_pages", "Pages of memory taken out of use.", func(r *devices.Reading) *float64 { return number(r.RetiredPages) }),
		f(total, "pcie_replays_total", "Packets sent again over PCIe.", func(r *devices.Reading) *float64 { return number(r.PCIeReplays) }),
		f(total, "link_transmit_bytes_total", "Bytes sent over links to other devices.", func(r *devices.Reading) *float64 { return number(r.LinkTransmitBytes) }),
		f(total, "link_receive_bytes_total", "Bytes received over links to other devices.", func(r *devices.Reading) *float64 { return number(r.LinkReceiveBytes) }),
		f(level, "links_down", "Links that should be up and are not.", func(r *devices.Reading) *float64 { return number(r.LinksDown) }),
		f(level, "health_code", "Ascend: 0 healthy, 1 minor, 2 major, 3 critical.", func(r *devices.Reading) *float64 { return number(r.HealthCode) }),
		f(level, "processes", "Processes that use the device.", processes),
	}
}

func number(n *int64) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}

func flag(b *bool) *float64 {
	if b == nil {
		return nil
	}
	f := truth(*b)
	return &f
}

func throttled(r *devices.Reading) *float64 {
	if r.Throttled == nil {
		return nil
	}
	f := truth(len(r.Throttled) > 0)
	return &f
}

func processes(r *devices.Reading) *float64 {
	if r.Processes == nil {
		return nil
	}
	f := float64(len(r.Processes))
	return &f
}

func (c *deviceCollector) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.health, c.action, c.memory, c.age, c.xids, c.signals, c.success, c.duration, c.scrapes, c.failed, c.declared,
	} {
		ch <- d
	}
	for _, f := range c.figures {
		ch <- f.desc
	}
}

func (c *deviceCollector) collect(ch chan<- prometheus.Metric, all []*fleetv1.Instance) {
	now, held, labels := time.Now(), holders(all), map[string][]string{}
	for _, d := range c.src.Devices.Devices() {
		l := c.labels(d, held[d.ID])
		labels[d.ID] = l
		stateSet(ch, c.health, healths, d.Health, l)
		stateSet(ch, c.action, actions, cmp.Or(d.Action, noAction), l)
		if d.MemoryBytes > 0 {
			gauge(ch, c.memory, float64(d.MemoryBytes), l...)
		}
	}
	for _, r := range c.src.Devices.Readings() {
		if l := labels[r.DeviceID]; l != nil {
			c.reading(ch, &r, now, l)
		}
	}
	for _, s := range c.src.Devices.SignalCounts() {
		l := labels[s.DeviceID]
		if l == nil { // about all of a vendor's devices, or about one that was never found
			l = c.labels(devices.Device{ID: s.DeviceID}, nil)
		}
		code := strconv.FormatInt(s.Code, 10)
		if s.Kind == devices.SignalXID {
			counter(ch, c.xids, float64(s.Count), append(l, code)...)
		} else {
			counter(ch, c.signals, float64(s.Count), append(l, string(s.Kind), code)...)
		}
	}
	for vendor, n := range c.src.Declared {
		gauge(ch, c.declared, float64(n), c.src.Node, vendor)
	}
	for _, v := range c.src.Devices.Vendors() {
		counter(ch, c.scrapes, float64(v.Calls), c.src.Node, v.Name)
		counter(ch, c.failed, float64(v.Failures), c.src.Node, v.Name)
		if v.Calls > 0 {
			gauge(ch, c.success, truth(v.Answered), c.src.Node, v.Name)
			gauge(ch, c.duration, v.Took.Seconds(), c.src.Node, v.Name)
		}
	}
}

// reading tells the figures of a device, and how old they are now.
func (c *deviceCollector) reading(ch chan<- prometheus.Metric, r *devices.Reading, now time.Time, labels []string) {
	for _, f := range c.figures {
		if v := f.of(r); v != nil {
			send(ch, f.desc, f.kind, *v, labels)
		}
	}
	for _, group := range []struct {
		name string
		at   time.Time
	}{{"usage", r.Time}, {"condition", r.ConditionTime}, {"processes", r.ProcessesTime}} {
		if !group.at.IsZero() {
			gauge(ch, c.age, max(0, now.Sub(group.at).Seconds()), append(labels, group.name)...)
		}
	}
}

// labels answers the values of deviceLabels, with no room behind: to append copies them. One that isn't a
// device of a driver's list has no index.
func (c *deviceCollector) labels(d devices.Device, holder *fleetv1.Instance) []string {
	index := ""
	if d.Vendor != "" {
		index = strconv.Itoa(d.Index)
	}
	spec := holder.GetSpec()
	l := []string{c.src.Node, d.Vendor, d.Model, d.ID, index, spec.GetServiceName(), spec.GetModelVersion(), holder.GetMeta().GetId()}
	return slices.Clip(l)
}

// stateSet tells each of the words, the one that is so with a 1.
func stateSet(ch chan<- prometheus.Metric, d *prometheus.Desc, words []string, is string, labels []string) {
	for _, w := range words {
		gauge(ch, d, truth(w == is), append(labels, w)...)
	}
}
