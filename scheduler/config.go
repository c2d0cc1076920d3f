package scheduler

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/drover-fleet/drover/identity"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/gossip"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/oidc"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Config is a scheduler's configuration.
type Config struct {
	// DataDir holds everything durable: the Raft log, events, token files, this scheduler's certificate.
	DataDir string `yaml:"data_dir"`
	// Addresses to listen on, "host:port"; port 0 takes a free one.
	GRPCAddr string `yaml:"grpc_addr"`
	HTTPAddr string `yaml:"http_addr"`
	RaftAddr string `yaml:"raft_addr"`
	// DNSAddr answers DNS queries for services, UDP and TCP, to whoever can reach it; empty is off.
	DNSAddr string `yaml:"dns_addr"`
	// GossipAddr is where schedulers gossip, TCP and UDP; GossipCIDRs are the networks that they may be in, none for all.
	GossipAddr  string   `yaml:"gossip_addr"`
	GossipCIDRs []string `yaml:"gossip_cidrs"`
	// Name is what people call this scheduler; empty means the host's name.
	Name string `yaml:"name"`
	// DeadAfter is how long a scheduler is silent before it may be replaced or removed without being asked for, the latter
	// only while MinSchedulers voters are alive without it.
	DeadAfter     time.Duration `yaml:"dead_after"`
	MinSchedulers int           `yaml:"min_schedulers"`
	// AdvertiseAddress is the host name or IP address at which agents, operators and other schedulers reach this one;
	// empty means the addresses that it listens on.
	AdvertiseAddress string `yaml:"advertise_address"`
	// Insecure serves plain text, on loopback addresses alone. Agents are known by a token then.
	Insecure bool `yaml:"insecure"`
	// KeyFile holds the key-encryption keys (identity.KeyFile); empty means cluster.key in DataDir.
	KeyFile string `yaml:"key_file"`
	// JoinFile lets this scheduler into a cluster; "-" is standard input. It is not read when there is a certificate.
	JoinFile string `yaml:"join_file"`
	// CertificateLifetime is that of the certificates which this scheduler signs. They are renewed after two thirds of it.
	CertificateLifetime time.Duration `yaml:"certificate_lifetime"`
	// Bootstrap makes this scheduler the first of a new cluster when its data directory is empty.
	Bootstrap bool `yaml:"bootstrap"`
	// Agents send every HeartbeatInterval; a node that is silent for LeaseDuration is unreachable. Both are the least:
	// they grow with the number of nodes.
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`
	LeaseDuration     time.Duration `yaml:"lease_duration"`
	// MaxServicesPerUser is a quota.
	MaxServicesPerUser int `yaml:"max_services_per_user"`
	// MaxJobsPerProject is another.
	MaxJobsPerProject int `yaml:"max_jobs_per_project"`
	// StorageDirs are the directories that file:// URLs of jobs lie in: absolute, and the same shared storage on every
	// scheduler and agent. storage.ProjectMark in one stands for the name of the job's project.
	StorageDirs []string `yaml:"storage_dirs"`
	// Stores are the object storages that URLs of jobs lead to.
	Stores Stores `yaml:"stores"`
	// A project has at most so many apps, and a user so many tokens and access keys together.
	MaxAppsPerProject     int `yaml:"max_apps_per_project"`
	MaxCredentialsPerUser int `yaml:"max_credentials_per_user"`
	// LookupMaxAge is how long a client may use the answer of a look-up; whole seconds. An instance that is
	// withdrawn serves at least that much longer.
	LookupMaxAge time.Duration `yaml:"lookup_max_age"`
	// An account and a user may look endpoints up so often in a minute, counted over all schedulers; 0 is no limit. A watch
	// counts once.
	LookupsPerAccount int `yaml:"lookups_per_account"`
	LookupsPerUser    int `yaml:"lookups_per_user"`
	// AllowUnsignedPayload takes requests whose signature doesn't cover the body (UNSIGNED-PAYLOAD).
	AllowUnsignedPayload bool `yaml:"allow_unsigned_payload"`
	// OIDC says whose tokens let callers in besides the cluster's own.
	OIDC oidc.Config `yaml:"oidc"`
	// ReserveAfter is how long an instance waits before what becomes free is kept for it. Less has big requests placed
	// sooner, more leaves less idle.
	ReserveAfter time.Duration   `yaml:"reserve_after"`
	Registry     registry.Config `yaml:"registry"`
	// About every SnapshotInterval, at most twice that, a snapshot of the state is written when SnapshotEntries of the Raft
	// log came since the last one. Then TrailingEntries of the log are kept, for schedulers that are behind: one that is
	// further behind is sent the snapshot.
	SnapshotInterval time.Duration `yaml:"snapshot_interval"`
	SnapshotEntries  int           `yaml:"snapshot_entries"`
	TrailingEntries  int           `yaml:"trailing_entries"`
	// Version of the program, as status and metrics show it; empty means what the Go build recorded.
	Version string `yaml:"-"`
	// Stdin is where a join file "-" is read.
	Stdin io.Reader `yaml:"-"`
	// Wall is the wall clock; unset it is the machine's.
	Wall func() time.Time `yaml:"-"`
	// Membership is how the schedulers keep together; DeadAfter and MinSchedulers count before its fields.
	Membership member.Settings `yaml:"-"`
	// CommandVersion is the newest that this scheduler says it can apply; less than it can makes it pass for an older one.
	CommandVersion uint32 `yaml:"-"`
}

// DefaultConfig is a single scheduler on loopback, with TLS.
func DefaultConfig() Config {
	return Config{
		DataDir:             "/var/lib/drover/scheduler",
		GRPCAddr:            "127.0.0.1:7400",
		HTTPAddr:            "127.0.0.1:7401",
		RaftAddr:            "127.0.0.1:7402",
		GossipAddr:          "127.0.0.1:7403",
		DeadAfter:           10 * time.Minute,
		MinSchedulers:       3,
		Membership:          member.DefaultSettings(),
		CommandVersion:      state.CommandVersion,
		Bootstrap:           true,
		CertificateLifetime: 90 * 24 * time.Hour,
		HeartbeatInterval:   time.Second,
		LeaseDuration:       4 * time.Second,
		MaxServicesPerUser:  20,
		MaxJobsPerProject:   1000,
		MaxAppsPerProject:   100, MaxCredentialsPerUser: 100,
		LookupMaxAge:      3 * time.Second,
		LookupsPerAccount: 2000,
		LookupsPerUser:    20,
		OIDC:              oidc.Config{UserClaim: "sub"},
		ReserveAfter:      30 * time.Second,
		SnapshotInterval:  2 * time.Minute,
		SnapshotEntries:   8192,
		TrailingEntries:   4096,
	}
}

// Validate finds everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	if c.DataDir == "" {
		bad("data_dir", "is missing")
	}
	for _, a := range []struct{ field, addr string }{{"grpc_addr", c.GRPCAddr}, {"http_addr", c.HTTPAddr}, {"raft_addr", c.RaftAddr}, {"gossip_addr", c.GossipAddr}} {
		if err := c.checkAddr(a.addr); err != nil {
			bad(a.field, "%w", err)
		}
	}
	if err := c.checkDNSAddr(); err != nil {
		bad("dns_addr", "%w", err)
	}
	if c.AdvertiseAddress != "" && !hostName.MatchString(c.AdvertiseAddress) && net.ParseIP(c.AdvertiseAddress) == nil {
		bad("advertise_address", "%q is neither a host name nor an IP address (the ports are those of the listeners)", c.AdvertiseAddress)
	}
	if c.CertificateLifetime < minCertificateLifetime || c.CertificateLifetime > authority.MaxLifetime {
		bad("certificate_lifetime", "%v is out of range %v–%v", c.CertificateLifetime, minCertificateLifetime, authority.MaxLifetime)
	}
	if c.Name != "" {
		if err := identity.CheckName(c.Name); err != nil {
			bad("name", "%w", err)
		}
	}
	if _, err := gossip.ParseCIDRs(c.GossipCIDRs); err != nil {
		bad("gossip_cidrs", "%w", err)
	}
	if c.DeadAfter < 10*time.Second || c.DeadAfter > 30*24*time.Hour {
		bad("dead_after", "%v is out of range 10s–720h", c.DeadAfter)
	}
	if c.MinSchedulers < 1 || c.MinSchedulers > 5 {
		bad("min_schedulers", "%d is out of range 1–5", c.MinSchedulers)
	}
	if c.Insecure && c.JoinFile != "" {
		bad("join_file", "a cluster without TLS (insecure) can't be joined")
	}
	if c.HeartbeatInterval < 10*time.Millisecond || c.HeartbeatInterval > time.Minute {
		bad("heartbeat_interval", "%v is out of range 10ms–1m", c.HeartbeatInterval)
	}
	if c.LeaseDuration < 2*c.HeartbeatInterval || c.LeaseDuration > time.Hour {
		bad("lease_duration", "%v must be at least twice heartbeat_interval (%v) and at most 1h", c.LeaseDuration, c.HeartbeatInterval)
	}
	c.validateStorage(bad)
	c.validateCaps(bad)
	if c.ReserveAfter < time.Second || c.ReserveAfter > time.Hour {
		bad("reserve_after", "%v is out of range 1s–1h", c.ReserveAfter)
	}
	c.validateLookups(bad)
	if err := c.OIDC.Validate(); err != nil {
		errs = append(errs, err)
	}
	c.validateSnapshots(bad)
	return errors.Join(errs...)
}

func (c Config) validateCaps(bad func(field, format string, args ...any)) {
	for _, limit := range []struct {
		field string
		n     int
	}{{"max_services_per_user", c.MaxServicesPerUser}, {"max_jobs_per_project", c.MaxJobsPerProject}, {"max_apps_per_project", c.MaxAppsPerProject}, {"max_credentials_per_user", c.MaxCredentialsPerUser}} {
		if limit.n < 1 {
			bad(limit.field, "%d must be at least 1", limit.n)
		}
	}
}

func (c Config) validateLookups(bad func(field, format string, args ...any)) {
	if c.LookupMaxAge < time.Second || c.LookupMaxAge > time.Minute || c.LookupMaxAge%time.Second != 0 {
		bad("lookup_max_age", "%v must be whole seconds, 1s–1m", c.LookupMaxAge)
	}
	for _, limit := range []struct {
		field string
		n     int
	}{{"lookups_per_account", c.LookupsPerAccount}, {"lookups_per_user", c.LookupsPerUser}} {
		if limit.n < 0 || limit.n > maxLookups {
			bad(limit.field, "%d is out of range 0–%d", limit.n, maxLookups)
		}
	}
}

func (c Config) validateSnapshots(bad func(field, format string, args ...any)) {
	if c.SnapshotInterval < 100*time.Millisecond || c.SnapshotInterval > time.Hour {
		bad("snapshot_interval", "%v is out of range 100ms–1h", c.SnapshotInterval)
	}
	if c.SnapshotEntries < 1 || c.SnapshotEntries > maxLogEntries {
		bad("snapshot_entries", "%d is out of range 1–%d", c.SnapshotEntries, maxLogEntries)
	}
	if c.TrailingEntries < 1 || c.TrailingEntries > maxLogEntries {
		bad("trailing_entries", "%d is out of range 1–%d", c.TrailingEntries, maxLogEntries)
	}
}

// maxLookups of an account or a user in a minute.
const maxLookups = 100_000_000

// maxLogEntries is how many entries a scheduler may have to read and apply at its start.
const maxLogEntries = 1_000_000

// minCertificateLifetime leaves time for renewing.
const minCertificateLifetime = 10 * time.Second

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// checkAddr says why this scheduler can't listen on an address.
func (c Config) checkAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	ip := net.ParseIP(host)
	switch {
	case c.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()):
		return fmt.Errorf("%q is not a loopback address, and plain text (insecure) is served on no other", addr)
	case !c.Insecure && (host == "" || ip != nil && ip.IsUnspecified()) && c.AdvertiseAddress == "":
		return fmt.Errorf("%q is every address of this host: say in advertise_address which one others reach it at", addr)
	}
	return nil
}

// checkDNSAddr says why DNS can't be served at its address. Nobody is told it, so that any address of this host may be meant.
func (c Config) checkDNSAddr() error {
	if c.DNSAddr == "" {
		return nil
	}
	if c.Insecure {
		return c.checkAddr(c.DNSAddr)
	}
	if _, _, err := net.SplitHostPort(c.DNSAddr); err != nil {
		return fmt.Errorf("%q is not host:port", c.DNSAddr)
	}
	return nil
}

func (c Config) keyFile() identity.KeyFile {
	if c.KeyFile != "" {
		return identity.KeyFile(c.KeyFile)
	}
	return identity.KeyFile(filepath.Join(c.DataDir, "cluster.key"))
}

// advertised is the address at which others reach a listener.
func (c Config) advertised(l string) string {
	_, port, err := net.SplitHostPort(l)
	if err != nil || c.AdvertiseAddress == "" || c.Insecure {
		return l
	}
	return net.JoinHostPort(c.AdvertiseAddress, port)
}

// hosts are the names and addresses in this scheduler's certificate, ordered.
func (c Config) hosts() []string {
	all := []string{"localhost", "127.0.0.1", "::1"}
	for _, addr := range []string{c.GRPCAddr, c.HTTPAddr} {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			all = append(all, host)
		}
	}
	if c.AdvertiseAddress != "" {
		all = append(all, c.AdvertiseAddress)
	}
	for i, h := range all {
		if ip := net.ParseIP(h); ip != nil {
			all[i] = ip.String()
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// raftAdvertise is the address that other schedulers are told; empty for the one that is listened on.
func (c Config) raftAdvertise() string {
	if _, port, err := net.SplitHostPort(c.RaftAddr); c.Insecure || err != nil || port == "0" {
		return ""
	}
	return c.advertised(c.RaftAddr)
}
