package scheduler

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/drover-fleet/drover/registry"
)

// Config is a scheduler's configuration.
type Config struct {
	// DataDir holds everything durable: the Raft log, events, token files.
	DataDir string `yaml:"data_dir"`
	// Addresses to listen on, "host:port"; port 0 takes a free one.
	GRPCAddr string `yaml:"grpc_addr"`
	HTTPAddr string `yaml:"http_addr"`
	RaftAddr string `yaml:"raft_addr"`
	// Bootstrap makes this scheduler the first of a new cluster when its data directory is empty.
	Bootstrap bool `yaml:"bootstrap"`
	// Agents send every HeartbeatInterval; a node that is silent for LeaseDuration is unreachable. Both are the least:
	// they grow with the number of nodes.
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`
	LeaseDuration     time.Duration `yaml:"lease_duration"`
	// MaxServicesPerUser is a quota.
	MaxServicesPerUser int `yaml:"max_services_per_user"`
	// LookupMaxAge is how long a client may use the answer of a look-up; whole seconds. An instance that is
	// withdrawn serves at least that much longer.
	LookupMaxAge time.Duration `yaml:"lookup_max_age"`
	// ReserveAfter is how long an instance waits before what becomes free is kept for it. Less has big requests placed
	// sooner, more leaves less idle.
	ReserveAfter time.Duration   `yaml:"reserve_after"`
	Registry     registry.Config `yaml:"registry"`
	// Version of the program, as status and metrics show it; empty means what the Go build recorded.
	Version string `yaml:"-"`
}

// DefaultConfig is a single scheduler on loopback.
func DefaultConfig() Config {
	return Config{
		DataDir:            "/var/lib/drover/scheduler",
		GRPCAddr:           "127.0.0.1:7400",
		HTTPAddr:           "127.0.0.1:7401",
		RaftAddr:           "127.0.0.1:7402",
		Bootstrap:          true,
		HeartbeatInterval:  time.Second,
		LeaseDuration:      4 * time.Second,
		MaxServicesPerUser: 20,
		LookupMaxAge:       3 * time.Second,
		ReserveAfter:       30 * time.Second,
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
	for _, a := range []struct{ field, addr string }{{"grpc_addr", c.GRPCAddr}, {"http_addr", c.HTTPAddr}, {"raft_addr", c.RaftAddr}} {
		if err := loopback(a.addr); err != nil {
			bad(a.field, "%w", err)
		}
	}
	if c.HeartbeatInterval < 10*time.Millisecond || c.HeartbeatInterval > time.Minute {
		bad("heartbeat_interval", "%v is out of range 10ms–1m", c.HeartbeatInterval)
	}
	if c.LeaseDuration < 2*c.HeartbeatInterval || c.LeaseDuration > time.Hour {
		bad("lease_duration", "%v must be at least twice heartbeat_interval (%v) and at most 1h", c.LeaseDuration, c.HeartbeatInterval)
	}
	if c.MaxServicesPerUser < 1 {
		bad("max_services_per_user", "%d must be at least 1", c.MaxServicesPerUser)
	}
	if c.LookupMaxAge < time.Second || c.LookupMaxAge > time.Minute || c.LookupMaxAge%time.Second != 0 {
		bad("lookup_max_age", "%v must be whole seconds, 1s–1m", c.LookupMaxAge)
	}
	if c.ReserveAfter < time.Second || c.ReserveAfter > time.Hour {
		bad("reserve_after", "%v is out of range 1s–1h", c.ReserveAfter)
	}
	return errors.Join(errs...)
}

func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address: other hosts can be served once nodes and users have identities", addr)
	}
	return nil
}
