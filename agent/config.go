package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// Config of an agent. Durations and sizes are in the unit that the name says.
type Config struct {
	// NodeName is unique in the cluster; empty means the host's name.
	NodeName string `yaml:"node_name"`
	// Schedulers are gRPC addresses, host:port. Empty means those that the join file or the schedulers have told; without
	// TLS one on this host.
	Schedulers []string `yaml:"schedulers"`
	// JoinFile lets this node into a cluster; "-" is standard input. It is not read when there is a certificate.
	JoinFile string `yaml:"join_file"`
	// Insecure connects in plain text to schedulers on loopback addresses, with the token of TokenFile.
	Insecure bool `yaml:"insecure"`
	// TokenFile holds the token of the role "agent"; only without TLS.
	TokenFile string `yaml:"token_file"`
	DataDir   string `yaml:"data_dir"`
	// HTTPAddr serves metrics and health.
	HTTPAddr string `yaml:"http_addr"`
	// AdvertiseAddress is the IP that endpoints are reported with; empty means the host's first global one.
	AdvertiseAddress string `yaml:"advertise_address"`
	// Networks are the host's addresses in further networks, by name: "ADDRESS" for who asks for the network, or
	// "ADDRESS/PREFIX" for callers from there as well.
	Networks map[string]string `yaml:"networks"`
	Labels   map[string]string `yaml:"labels"`
	// MountDirs are the directories below which services may mount.
	MountDirs []string `yaml:"mount_dirs"`
	// StorageDirs are the directories in which the file:// inputs and outputs of jobs lie: of shared storage, at the same
	// path on every node and scheduler. storage.ProjectMark in one stands for the name of the job's project.
	StorageDirs []string `yaml:"storage_dirs"`
	// Reserved… is kept back for the system; 0 means the default (see the package's doc).
	ReservedCPUMillis   int64 `yaml:"reserved_cpu_millis"`
	ReservedMemoryBytes int64 `yaml:"reserved_memory_bytes"`
	ReservedDiskBytes   int64 `yaml:"reserved_disk_bytes"`
	// PortMin–PortMax are given to instances.
	PortMin int `yaml:"port_min"`
	PortMax int `yaml:"port_max"`
	// ImageHigh and ImageLow are fractions of the disk: above the first, images are removed down to the
	// second.
	ImageHigh float64 `yaml:"image_high"`
	ImageLow  float64 `yaml:"image_low"`
	// DeclaredDevices is how many devices of each vendor the host is meant to have; fewer are told as an event.
	DeclaredDevices map[string]int `yaml:"declared_devices"`
	// ReclaimTimeout is how long a device may stay in use after its holder is gone before it is quarantined.
	ReclaimTimeout time.Duration `yaml:"reclaim_timeout"`
	// LocalSocket is a Unix socket; empty means agent.sock in DataDir.
	LocalSocket string `yaml:"local_socket"`
	// Version of the program, as the node's facts show it; empty means what the Go build recorded.
	Version string `yaml:"-"`
	// Stdin is where a join file "-" is read.
	Stdin io.Reader `yaml:"-"`
}

// DefaultConfig answers a configuration that Validate accepts once DataDir can be used.
func DefaultConfig() Config {
	return Config{
		TokenFile: "/etc/drover/agent.token", DataDir: "/var/lib/drover/agent",
		HTTPAddr: "127.0.0.1:7410", PortMin: 30000, PortMax: 32767, ImageHigh: 0.85, ImageLow: 0.75,
		ReclaimTimeout: time.Minute,
	}
}

// deviceVendors are the words for vendors of devices.
var deviceVendors = []string{"nvidia", "ascend", "fake"}

var networkName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// maxNetworks of a host.
const maxNetworks = 16

// validateNetworks checks the addresses in further networks.
func (c *Config) validateNetworks(wrong func(field, format string, args ...any)) {
	if len(c.Networks) > maxNetworks {
		wrong("networks", "%d of them are more than %d", len(c.Networks), maxNetworks)
	}
	for name, address := range c.Networks {
		if !networkName.MatchString(name) || name == fleetv1.Default {
			wrong("networks", "%q is not a name of 1–64 letters, digits, '-' or '_', other than %q, which is advertise_address", name, fleetv1.Default)
		}
		ip, _, prefixed := strings.Cut(address, "/")
		_, err := netip.ParsePrefix(address)
		addr, bad := netip.ParseAddr(ip)
		if bad != nil || prefixed && err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
			wrong("networks", "%s: %q is neither an IP address of this host nor ADDRESS/PREFIX, as in 10.0.0.7/24", name, address)
		}
	}
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Validate fills in what depends on the host and answers every mistake, each with its field.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			wrong("node_name", "the host's name is not known: %v", err)
		}
		c.NodeName = host
	}
	if !nodeName.MatchString(c.NodeName) {
		wrong("node_name", "%q is not 1–64 letters, digits, '.', '-' or '_'", c.NodeName)
	}
	c.validateSchedulers(wrong)
	if c.DataDir == "" {
		wrong("data_dir", "must be set")
	} else if abs, err := filepath.Abs(c.DataDir); err != nil {
		wrong("data_dir", "%v", err)
	} else {
		c.DataDir = abs
	}
	if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
		wrong("http_addr", "%q is not host:port", c.HTTPAddr)
	}
	c.validateHost(wrong)
	if c.LocalSocket == "" {
		c.LocalSocket = filepath.Join(c.DataDir, "agent.sock")
	}
	return errors.Join(errs...)
}

// validateSchedulers checks how schedulers are reached.
func (c *Config) validateSchedulers(wrong func(field, format string, args ...any)) {
	if c.Insecure && len(c.Schedulers) == 0 {
		c.Schedulers = []string{"127.0.0.1:7400"}
	}
	for i, address := range c.Schedulers {
		host, _, err := net.SplitHostPort(address)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			wrong(fmt.Sprintf("schedulers[%d]", i), "%q is not host:port", address)
		case c.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()):
			wrong(fmt.Sprintf("schedulers[%d]", i), "%q is not a loopback address, and plain text (insecure) goes to no other", address)
		}
	}
	if c.Insecure && c.TokenFile == "" {
		wrong("token_file", "must be set")
	}
	if c.Insecure && c.JoinFile != "" {
		wrong("join_file", "a cluster without TLS (insecure) can't be joined: token_file is used")
	}
}

// validateHost checks what instances get of the host.
func (c *Config) validateHost(wrong func(field, format string, args ...any)) {
	if c.AdvertiseAddress != "" && net.ParseIP(c.AdvertiseAddress) == nil {
		wrong("advertise_address", "%q is no IP address", c.AdvertiseAddress)
	}
	c.validateNetworks(wrong)
	for field, dirs := range map[string][]string{"mount_dirs": c.MountDirs, "storage_dirs": c.StorageDirs} {
		for i, dir := range dirs {
			if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
				wrong(fmt.Sprintf("%s[%d]", field, i), "%q is not an absolute path below /", dir)
			}
		}
	}
	if err := storage.CheckDirs(c.StorageDirs); err != nil {
		wrong("storage_dirs", "%v", err)
	}
	for field, v := range map[string]int64{
		"reserved_cpu_millis": c.ReservedCPUMillis, "reserved_memory_bytes": c.ReservedMemoryBytes, "reserved_disk_bytes": c.ReservedDiskBytes,
	} {
		if v < 0 {
			wrong(field, "%d is below 0", v)
		}
	}
	if c.PortMin < 1024 || c.PortMax > 65535 || c.PortMin > c.PortMax {
		wrong("port_min, port_max", "%d–%d is no range within 1024–65535", c.PortMin, c.PortMax)
	}
	for vendor, count := range c.DeclaredDevices {
		switch {
		case !slices.Contains(deviceVendors, vendor):
			wrong("declared_devices", "%q is none of %s", vendor, strings.Join(deviceVendors, ", "))
		case count < 0:
			wrong("declared_devices", "%d of %s is below 0", count, vendor)
		}
	}
	if c.ReclaimTimeout < time.Second || c.ReclaimTimeout > time.Hour {
		wrong("reclaim_timeout", "%s is not between 1s and 1h", c.ReclaimTimeout)
	}
	if !(c.ImageLow > 0 && c.ImageLow < c.ImageHigh && c.ImageHigh <= 1) {
		wrong("image_low, image_high", "%v and %v are not fractions with low below high", c.ImageLow, c.ImageHigh)
	}
}
