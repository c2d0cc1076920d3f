package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Schedulers is a cluster of real `drover scheduler` processes with TLS, each with its own ports on this machine.
type Schedulers struct {
	All []*SchedulerProcess

	t       testing.TB
	dir     string
	binary  string
	options SchedulersOptions
}

// SchedulersOptions of a cluster.
type SchedulersOptions struct {
	// Dir is where they keep everything; empty: a temporary directory.
	Dir string
	// Config is merged into every scheduler's configuration file.
	Config map[string]any
	// Command answers what is run in place of a scheduler's command line, such as that under strace; nil: itself.
	Command func(n int, argv []string) []string
	// Host is the address that scheduler n, counted from 1, listens on and is reached at; nil: loopback.
	Host func(n int) string
}

// SchedulerProcess is one scheduler. Its Process is that of the last start; kill it, and Start it again.
type SchedulerProcess struct {
	*Process
	Name string // "s1" and so on
	// Client asks this scheduler as the administrator.
	Client *client.Client
	GRPC   string // "host:port"
	HTTP   string
	lookup *http.Client // made by the first look-up

	s      *Schedulers
	n      int
	config string
}

// StartSchedulers founds a cluster with the first scheduler, lets the others join, and waits until all n have a vote.
// n is odd.
func StartSchedulers(t testing.TB, n int, options SchedulersOptions) *Schedulers {
	t.Helper()
	s := &Schedulers{t: t, dir: options.Dir, binary: Binary(t), options: options}
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	for range n {
		s.Add()
	}
	s.WaitVoters(n)
	return s
}

// Add starts one more scheduler and waits until it serves.
func (s *Schedulers) Add() *SchedulerProcess {
	s.t.Helper()
	n := len(s.All) + 1
	p := &SchedulerProcess{Name: fmt.Sprintf("s%d", n), GRPC: s.addr(n), HTTP: s.addr(n), s: s, n: n}
	p.config = filepath.Join(s.dir, p.Name+".yaml")
	cfg := map[string]any{
		"name": p.Name, "data_dir": p.Dir(), "key_file": filepath.Join(s.dir, "cluster.key"),
		"grpc_addr": p.GRPC, "http_addr": p.HTTP, "raft_addr": s.addr(n), "gossip_addr": s.addr(n), "lookup_max_age": "1s",
		"lookups_per_user": 0, "lookups_per_account": 0,
	}
	for k, v := range s.options.Config {
		cfg[k] = v
	}
	if n > 1 {
		cfg["join_file"] = filepath.Join(s.dir, p.Name+".join")
		s.writeJoinFile(cfg["join_file"].(string))
	}
	raw, err := yaml.Marshal(cfg)
	s.must(err)
	s.must(os.WriteFile(p.config, raw, 0o600))
	s.All = append(s.All, p)
	s.t.Cleanup(func() {
		if p.Client != nil {
			_ = p.Client.Close()
		}
		if p.Process == nil {
			return
		}
		p.Stop()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", p.Name, p.Log())
		}
	})
	p.Start()
	return p
}

// addr is an address of scheduler n with a port that is free on this machine.
func (s *Schedulers) addr(n int) string {
	s.t.Helper()
	addr := freeAddr(s.t)
	if s.options.Host == nil {
		return addr
	}
	_, port, err := net.SplitHostPort(addr)
	s.must(err)
	return net.JoinHostPort(s.options.Host(n), port)
}

func (s *Schedulers) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// writeJoinFile makes a join token for one scheduler.
func (s *Schedulers) writeJoinFile(path string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := s.All[0].Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{Role: fleetv1.RoleScheduler})
	s.must(err)
	token, err := identity.ParseToken(resp.GetSecret())
	s.must(err)
	file, err := identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
	s.must(err)
	s.must(os.WriteFile(path, file, 0o600))
}

// addrs are those of gRPC.
func (s *Schedulers) addrs() (out []string) {
	for _, p := range s.All {
		out = append(out, p.GRPC)
	}
	return out
}

// Clients ask one scheduler each.
func (s *Schedulers) Clients() (out []*client.Client) {
	for _, p := range s.All {
		out = append(out, p.Client)
	}
	return out
}

// Others are all schedulers but one.
func (s *Schedulers) Others(p *SchedulerProcess) (out []*SchedulerProcess) {
	for _, o := range s.All {
		if o != p {
			out = append(out, o)
		}
	}
	return out
}

// Number of the scheduler, counted from 1, as in its name.
func (p *SchedulerProcess) Number() int { return p.n }

// ID is the scheduler's in the cluster.
func (p *SchedulerProcess) ID() string {
	p.s.t.Helper()
	all, err := p.members(fleetv1.ConsistencyStale)
	p.s.must(err)
	for _, m := range all {
		if m.GetName() == p.Name {
			return m.GetId()
		}
	}
	p.s.t.Fatalf("%s knows no %s among %v", p.Name, p.Name, all)
	return ""
}

// Status is what this scheduler knows of the cluster, whether it follows or leads.
func (p *SchedulerProcess) Status(ctx context.Context) (*fleetv1.GetClusterStatusResponse, error) {
	ctx, cancel := context.WithTimeout(client.WithConsistency(ctx, fleetv1.ConsistencyStale), 2*time.Second)
	defer cancel()
	return p.Client.Cluster.GetClusterStatus(ctx, &fleetv1.GetClusterStatusRequest{})
}

// Endpoints looks a service of the default project up at this scheduler.
func (p *SchedulerProcess) Endpoints(service string) ([]client.Endpoint, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if p.lookup == nil {
		var err error
		if p.lookup, err = client.NewHTTPClient(p.CAFile()); err != nil {
			return nil, err
		}
	}
	return lookUp(ctx, p.lookup, p.HTTP, p.s.AdminToken(), service)
}

// Dir is the scheduler's data directory.
func (p *SchedulerProcess) Dir() string { return filepath.Join(p.s.dir, p.Name) }

// CAFile holds the certificates that the scheduler is checked by.
func (p *SchedulerProcess) CAFile() string { return filepath.Join(p.Dir(), "identity", "ca.pem") }

// AdminToken is the file with the administrator's token of the cluster.
func (s *Schedulers) AdminToken() string { return filepath.Join(s.dir, "s1", "admin.token") }

// Launch starts the scheduler and does not wait.
func (p *SchedulerProcess) Launch() {
	p.s.t.Helper()
	argv := []string{p.s.binary, "scheduler", "--config", p.config}
	if p.s.options.Command != nil {
		argv = p.s.options.Command(p.n, argv)
	}
	p.Process = startProcess(p.s.t, p.s.dir, p.Name, argv[0], nil, argv[1:]...)
}

// Start starts the scheduler and waits until it answers.
func (p *SchedulerProcess) Start() {
	p.s.t.Helper()
	p.Launch()
	p.s.Within(patience, p.Name+" answers", func() error {
		if p.Exited() {
			p.s.t.Fatalf("%s ended:\n%s", p.Name, p.Log())
		}
		for _, file := range []string{p.CAFile(), p.s.AdminToken()} {
			if _, err := os.Stat(file); err != nil {
				return err
			}
		}
		if p.Client == nil {
			var err error
			if p.Client, err = client.Dial(client.Config{Addr: p.GRPC, TokenFile: p.s.AdminToken(), CAFile: p.CAFile()}); err != nil {
				return err
			}
		}
		_, err := p.members(fleetv1.ConsistencyLinearizable)
		return err
	})
}

// members asks this scheduler how all of them are.
func (p *SchedulerProcess) members(consistency string) ([]*fleetv1.Member, error) {
	ctx, cancel := context.WithTimeout(client.WithConsistency(context.Background(), consistency), 5*time.Second)
	defer cancel()
	resp, err := p.Client.Cluster.ListMembers(ctx, &fleetv1.ListMembersRequest{})
	return resp.GetMembers(), err
}

// Leader waits until a majority of the schedulers that answer agrees who leads, and answers that one.
func (s *Schedulers) Leader() *SchedulerProcess {
	s.t.Helper()
	var found *SchedulerProcess
	s.Within(patience, "a scheduler leads", func() error {
		votes := map[string]int{}
		for _, p := range s.All {
			if p.Exited() {
				continue
			}
			all, err := p.members(fleetv1.ConsistencyStale)
			if err != nil {
				continue // it may be stopped by the test, or cut off
			}
			for _, m := range all {
				if m.GetLeader() {
					votes[m.GetName()]++
				}
			}
		}
		for _, p := range s.All {
			if votes[p.Name] > len(s.All)/2 {
				found = p
				return nil
			}
		}
		return fmt.Errorf("the schedulers say: %v", votes)
	})
	return found
}

// WaitVoters waits until so many schedulers have a vote and are alive.
func (s *Schedulers) WaitVoters(n int) {
	s.t.Helper()
	s.Within(patience, fmt.Sprintf("%d voters are alive", n), func() error {
		var errs []error
		for _, p := range s.All {
			if p.Exited() {
				continue
			}
			all, err := p.members(fleetv1.ConsistencyLinearizable)
			voters := 0
			for _, m := range all {
				if m.GetRole() == "voter" && m.GetState() == "alive" {
					voters++
				}
			}
			if err == nil && voters == n {
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %d, %w", p.Name, voters, err))
		}
		return errors.Join(errs...)
	})
}

// Drover runs the command line against this scheduler and answers its output and exit code.
func (p *SchedulerProcess) Drover(args ...string) (stdout, stderr string, code int) {
	p.s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	token, err := os.ReadFile(p.s.AdminToken())
	p.s.must(err)
	cmd := exec.CommandContext(ctx, p.s.binary, args...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR="+p.GRPC, "DROVER_TOKEN="+strings.TrimSpace(string(token)), "DROVER_CA="+p.CAFile(), "XDG_CONFIG_HOME="+p.s.dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); cmd.ProcessState == nil {
		p.s.t.Fatalf("run drover %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Within fails the test unless fn answers nil within limit.
func (s *Schedulers) Within(limit time.Duration, what string, fn func() error) {
	s.t.Helper()
	(&Machine{t: s.t}).Within(limit, what, fn)
}

// Rejoin starts a scheduler that is out of the cluster with an empty data directory and a join token of its own, which
// the first one makes; it isn't the first one.
func (p *SchedulerProcess) Rejoin() {
	p.s.t.Helper()
	p.s.must(os.RemoveAll(p.Dir()))
	p.s.writeJoinFile(filepath.Join(p.s.dir, p.Name+".join"))
	p.Start()
}

// Recover runs `drover scheduler recover` for this scheduler, which doesn't run.
func (p *SchedulerProcess) Recover(flags ...string) (stdout, stderr string, code int) {
	p.s.t.Helper()
	return p.Drover(append([]string{"scheduler", "recover", "--config", p.config}, flags...)...)
}

// Gossip is how this scheduler sees the members by itself.
func (p *SchedulerProcess) Gossip() ([]*fleetv1.Member, error) {
	return p.members(fleetv1.ConsistencyStale)
}
