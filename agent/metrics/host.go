package metrics

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"
)

// host collects drover_host_*. Other roots than /proc come from gopsutil's HOST_PROC and HOST_SYS.
type host struct {
	dir    string
	logger *slog.Logger

	cpuSeconds, load1, memTotal, memAvailable, swapUsed *prometheus.Desc
	fsSize, fsFree                                      *prometheus.Desc
	diskRead, diskWritten, diskBusy                     *prometheus.Desc
	netReceive, netTransmit, netErrors                  *prometheus.Desc
}

func newHost(dir string, logger *slog.Logger) *host {
	return &host{
		dir: dir, logger: logger,
		cpuSeconds:   desc("host_cpu_seconds_total", "Time that the host's CPUs spent, by mode.", "mode"),
		load1:        desc("host_load1_ratio", "Processes that run or wait to, averaged over a minute."),
		memTotal:     desc("host_memory_bytes", "Memory of the host."),
		memAvailable: desc("host_memory_available_bytes", "Memory that programs can still get."),
		swapUsed:     desc("host_swap_used_bytes", "Swap in use."),
		fsSize:       desc("host_data_disk_bytes", "Size of the file system with the agent's data."),
		fsFree:       desc("host_data_disk_available_bytes", "What is free on the file system with the agent's data."),
		diskRead:     desc("host_disk_read_bytes_total", "Read from a disk.", "disk"),
		diskWritten:  desc("host_disk_written_bytes_total", "Written to a disk.", "disk"),
		diskBusy:     desc("host_disk_io_seconds_total", "Time that a disk was busy.", "disk"),
		netReceive:   desc("host_network_receive_bytes_total", "Received on an interface.", "interface"),
		netTransmit:  desc("host_network_transmit_bytes_total", "Sent on an interface.", "interface"),
		netErrors:    desc("host_network_errors_total", "Packets with errors on an interface.", "interface"),
	}
}

// Describe implements prometheus.Collector.
func (h *host) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		h.cpuSeconds, h.load1, h.memTotal, h.memAvailable, h.swapUsed, h.fsSize, h.fsFree, h.diskRead, h.diskWritten, h.diskBusy,
		h.netReceive, h.netTransmit, h.netErrors,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (h *host) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for what, collect := range map[string]func(context.Context, chan<- prometheus.Metric) error{
		"cpu": h.cpu, "memory": h.memory, "disk": h.disks, "network": h.network,
	} {
		if err := collect(ctx, ch); err != nil {
			h.logger.Warn("figures of the host can't be read", "what", what, "error", err)
		}
	}
}

func (h *host) cpu(ctx context.Context, ch chan<- prometheus.Metric) error {
	times, err := cpu.TimesWithContext(ctx, false)
	if err != nil {
		return err
	}
	for _, t := range times {
		for mode, v := range map[string]float64{
			"user": t.User, "system": t.System, "idle": t.Idle, "iowait": t.Iowait, "steal": t.Steal, "irq": t.Irq, "softirq": t.Softirq, "nice": t.Nice,
		} {
			counter(ch, h.cpuSeconds, v, mode)
		}
	}
	avg, err := load.AvgWithContext(ctx)
	if err != nil {
		return err
	}
	gauge(ch, h.load1, avg.Load1)
	return nil
}

func (h *host) memory(ctx context.Context, ch chan<- prometheus.Metric) error {
	m, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return err
	}
	gauge(ch, h.memTotal, float64(m.Total))
	gauge(ch, h.memAvailable, float64(m.Available))
	gauge(ch, h.swapUsed, float64(m.SwapTotal-min(m.SwapTotal, m.SwapFree)))
	return nil
}

func (h *host) disks(ctx context.Context, ch chan<- prometheus.Metric) error {
	u, err := disk.UsageWithContext(ctx, h.dir)
	if err != nil {
		return err
	}
	gauge(ch, h.fsSize, float64(u.Total))
	gauge(ch, h.fsFree, float64(u.Free))
	all, err := disk.IOCountersWithContext(ctx)
	if err != nil {
		return err
	}
	for name, d := range all {
		counter(ch, h.diskRead, float64(d.ReadBytes), name)
		counter(ch, h.diskWritten, float64(d.WriteBytes), name)
		counter(ch, h.diskBusy, float64(d.IoTime)/1000, name)
	}
	return nil
}

func (h *host) network(ctx context.Context, ch chan<- prometheus.Metric) error {
	all, err := net.IOCountersWithContext(ctx, true)
	if err != nil {
		return err
	}
	for _, n := range all {
		if len(n.Name) > 4 && n.Name[:4] == "veth" {
			continue // one per container, told with the container
		}
		counter(ch, h.netReceive, float64(n.BytesRecv), n.Name)
		counter(ch, h.netTransmit, float64(n.BytesSent), n.Name)
		counter(ch, h.netErrors, float64(n.Errin+n.Errout), n.Name)
	}
	return nil
}
