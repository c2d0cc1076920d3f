package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// deviceCollector collects drover_device_* from the registry's memory; a scrape asks no driver.
type deviceCollector struct {
	src                                                 Devices
	healthy, memory, used, utilisation, heat, watts, at *prometheus.Desc
}

func newDeviceCollector(src Devices) *deviceCollector {
	d := func(name, help string) *prometheus.Desc {
		return desc("device_"+name, help, "device", "vendor", "model", "index")
	}
	return &deviceCollector{
		src:         src,
		healthy:     d("healthy", "1 while the device works."),
		memory:      d("memory_bytes", "Memory of the device."),
		used:        d("memory_used_bytes", "Device memory in use."),
		utilisation: d("utilisation_ratio", "How busy the device is."),
		heat:        d("temperature_celsius", "Temperature of the device."),
		watts:       d("power_watts", "Power that the device draws."),
		at:          d("sample_time_seconds", "Unix time of the figures."),
	}
}

// Describe implements prometheus.Collector.
func (c *deviceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.healthy, c.memory, c.used, c.utilisation, c.heat, c.watts, c.at} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *deviceCollector) Collect(ch chan<- prometheus.Metric) {
	labels := map[string][]string{}
	for _, d := range c.src.Devices() {
		l := []string{d.ID, d.Vendor, d.Model, strconv.Itoa(d.Index)}
		labels[d.ID] = l
		gauge(ch, c.healthy, truth(d.Health == fleetv1.Healthy), l...)
		gauge(ch, c.memory, float64(d.MemoryBytes), l...)
	}
	for _, s := range c.src.Samples() {
		l := labels[s.DeviceID]
		if l == nil {
			continue
		}
		gauge(ch, c.at, float64(s.Time.UnixMilli())/1000, l...)
		if s.Utilisation != nil {
			gauge(ch, c.utilisation, *s.Utilisation, l...)
		}
		if s.MemoryUsedBytes != nil {
			gauge(ch, c.used, float64(*s.MemoryUsedBytes), l...)
		}
		if s.TemperatureC != nil {
			gauge(ch, c.heat, *s.TemperatureC, l...)
		}
		if s.PowerWatts != nil {
			gauge(ch, c.watts, *s.PowerWatts, l...)
		}
	}
}
