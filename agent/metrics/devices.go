package metrics

import (
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

// deviceCollector collects drover_device_* from the registry's memory; a scrape asks no driver.
type deviceCollector struct {
	src                              Devices
	instances                        func() []*fleetv1.Instance
	healthy, memory, signals, held   *prometheus.Desc
	answered, seconds, calls, failed *prometheus.Desc
	figures                          []deviceFigure
}

func newDeviceCollector(src Devices, instances func() []*fleetv1.Instance) *deviceCollector {
	vendor := func(name, help string) *prometheus.Desc { return desc("device_vendor_"+name, help, "vendor") }
	return &deviceCollector{
		src: src, instances: instances,
		healthy:  deviceDesc("healthy", "1 while the device works."),
		memory:   deviceDesc("memory_bytes", "Memory of the device."),
		signals:  desc("device_signals_total", "What the driver signalled since the agent started: XIDs, memory errors, lost devices.", "device", "vendor", "kind", "code"),
		held:     desc("device_held", "1 for the instance that holds the device.", "device", "instance", "project", "service", "model", "model_version"),
		answered: vendor("answered", "1 while the vendor's driver answers."),
		seconds:  vendor("call_seconds", "How long the last call to the vendor's driver took."),
		calls:    vendor("calls_total", "Calls to the vendor's driver."),
		failed:   vendor("failures_total", "Calls to the vendor's driver that failed."),
		figures:  deviceFigures(),
	}
}

func deviceDesc(name, help string) *prometheus.Desc {
	return desc("device_"+name, help, "device", "vendor", "model", "index")
}

func deviceFigures() []deviceFigure {
	const level, total = prometheus.GaugeValue, prometheus.CounterValue
	f := func(kind prometheus.ValueType, name, help string, of func(*devices.Reading) *float64) deviceFigure {
		return deviceFigure{deviceDesc(name, help), kind, of}
	}
	return []deviceFigure{
		f(level, "sample_time_seconds", "Unix time of the device's usage.", func(r *devices.Reading) *float64 { return unix(r.Time) }),
		f(level, "condition_time_seconds", "Unix time of the device's error counts and links.", func(r *devices.Reading) *float64 { return unix(r.ConditionTime) }),
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
		f(total, "link_transmit_bytes_total", "Bytes sent over NVLink or HCCS.", func(r *devices.Reading) *float64 { return number(r.LinkTransmitBytes) }),
		f(total, "link_receive_bytes_total", "Bytes received over NVLink or HCCS.", func(r *devices.Reading) *float64 { return number(r.LinkReceiveBytes) }),
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

func unix(t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	f := float64(t.UnixMilli()) / 1000
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

// Describe implements prometheus.Collector.
func (c *deviceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.healthy, c.memory, c.signals, c.held, c.answered, c.seconds, c.calls, c.failed} {
		ch <- d
	}
	for _, f := range c.figures {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *deviceCollector) Collect(ch chan<- prometheus.Metric) {
	labels, vendors := map[string][]string{}, map[string]string{}
	for _, d := range c.src.Devices() {
		l := []string{d.ID, d.Vendor, d.Model, strconv.Itoa(d.Index)}
		labels[d.ID], vendors[d.ID] = l, d.Vendor
		gauge(ch, c.healthy, truth(d.Health == fleetv1.Healthy), l...)
		gauge(ch, c.memory, float64(d.MemoryBytes), l...)
	}
	for _, r := range c.src.Readings() {
		l := labels[r.DeviceID]
		if l == nil {
			continue
		}
		for _, f := range c.figures {
			if v := f.of(&r); v != nil {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, *v, l...)
			}
		}
	}
	for _, s := range c.src.SignalCounts() {
		counter(ch, c.signals, float64(s.Count), s.DeviceID, vendors[s.DeviceID], string(s.Kind), strconv.FormatInt(s.Code, 10))
	}
	for _, v := range c.src.Vendors() {
		gauge(ch, c.answered, truth(v.Answered), v.Name)
		gauge(ch, c.seconds, v.Took.Seconds(), v.Name)
		counter(ch, c.calls, float64(v.Calls), v.Name)
		counter(ch, c.failed, float64(v.Failures), v.Name)
	}
	for _, in := range c.instances() {
		for _, id := range in.GetSpec().GetDeviceIds() {
			s := in.GetSpec()
			gauge(ch, c.held, 1, id, in.GetMeta().GetId(), in.GetMeta().GetProject(), s.GetServiceName(), s.GetModel(), s.GetModelVersion())
		}
	}
}
