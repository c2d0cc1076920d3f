package containerd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/drover-fleet/drover/runtime"
)

// Defaults of what a Spec leaves open.
const (
	defaultShm     = 64 << 20
	defaultPids    = 16384
	defaultNofile  = 65536
	defaultMemlock = 8 << 20
	cpuPeriod      = 100_000 // microseconds
	infinity       = ^uint64(0)
)

// capabilities that a container's root keeps: those that server programs use inside their own
// namespaces. NET_RAW is not among them: with it a container could forge packets on the bridge.
// MKNOD and AUDIT_WRITE are left out as well, because no server needs them.
func capabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
		"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// host is what a container's OCI specification takes from this machine.
type host struct {
	cgroupPath string
	cgroupV2   bool
	swap       bool
	netns      string // empty with the host's network
	filesDir   string // holds hosts, hostname and resolv.conf

	// Hard limits of this process, which it may not be allowed to raise: they bound the defaults.
	maxNofile, maxMemlock uint64
}

// ociSpec makes a container's OCI specification. It is pure; user and devices are left to the caller.
func ociSpec(s runtime.Spec, image ocispec.ImageConfig, h host) (*specs.Spec, error) {
	args := s.Command
	if len(args) == 0 {
		args = append(slices.Clone(image.Entrypoint), image.Cmd...)
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("%w: neither the image nor the request names a command", runtime.ErrFatal)
	}
	cwd := image.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	env, request := imageEnvironment(image.Env, s)
	zero := 0
	out := &specs.Spec{
		Version:  "1.0.2", // the newest that every supported OCI runtime knows
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: "rootfs", Readonly: s.ReadOnlyRoot},
		Process: &specs.Process{
			Args: args, Cwd: cwd, Env: environment(env, request), NoNewPrivileges: true, OOMScoreAdj: &zero,
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities(), Effective: capabilities(), Permitted: capabilities()},
			Rlimits:      rlimits(s, h),
		},
		Mounts: mounts(s, h),
		Linux: &specs.Linux{
			CgroupsPath: h.cgroupPath,
			Namespaces:  linuxNamespaces(h),
			Resources:   resources(s, h),
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	out.Linux.Seccomp = seccomp.DefaultProfile(out)
	return out, nil
}

// environment merges, later ones first: the request's, the image's, a PATH.
func environment(image []string, request map[string]string) []string {
	env := make([]string, 0, len(image)+len(request)+1)
	path := false
	for _, entry := range image {
		key, _, _ := strings.Cut(entry, "=")
		if _, replaced := request[key]; !replaced {
			env = append(env, entry)
			path = path || key == "PATH"
		}
	}
	if _, set := request["PATH"]; !set && !path {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	for _, key := range slices.Sorted(maps.Keys(request)) {
		env = append(env, key+"="+request[key])
	}
	return env
}

func rlimits(s runtime.Spec, h host) []specs.POSIXRlimit {
	limit := func(kind string, value int64, def, most uint64) specs.POSIXRlimit {
		n := uint64(value)
		switch {
		case value == 0:
			n = min(def, most)
		case value < 0:
			n = infinity
		}
		return specs.POSIXRlimit{Type: kind, Hard: n, Soft: n}
	}
	return []specs.POSIXRlimit{
		limit("RLIMIT_MEMLOCK", s.Memlock, defaultMemlock, h.maxMemlock),
		limit("RLIMIT_NOFILE", s.Nofile, defaultNofile, h.maxNofile),
	}
}

func linuxNamespaces(h host) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}}
	if h.cgroupV2 {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if h.netns != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: h.netns})
	}
	return ns
}

func resources(s runtime.Spec, h host) *specs.LinuxResources {
	pids := s.Pids
	if pids == 0 {
		pids = defaultPids
	}
	res := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Pids:    &specs.LinuxPids{Limit: &pids},
	}
	if s.CPUMillis > 0 {
		quota, period := s.CPUMillis*cpuPeriod/1000, uint64(cpuPeriod)
		quota = max(quota, 1000) // the kernel's least
		shares := max(uint64(s.CPUMillis)*1024/1000, 2)
		res.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}
	}
	if s.MemoryBytes > 0 {
		limit := s.MemoryBytes
		res.Memory = &specs.LinuxMemory{Limit: &limit}
		if h.swap {
			res.Memory.Swap = &limit // memory and swap together: no swap
		}
	}
	return res
}

func mounts(s runtime.Spec, h host) []specs.Mount {
	shm := s.ShmBytes
	if shm == 0 {
		shm = defaultShm
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		list = append(list, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: h.filesDir + "/" + name, Options: []string{"bind", "rprivate", "ro"}})
	}
	for _, m := range s.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		list = append(list, specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: []string{"rbind", "rprivate", "nosuid", "nodev", mode}})
	}
	return list
}
