//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/machine"
)

// process is a real scheduler.
type process struct {
	cfg  scheduler.Config
	cmd  *exec.Cmd
	done chan error // answers once, when it has ended
	log  string
}

// schedulerConfig is one of a scheduler with the default cadence. Leases are long: whether nodes without an agent
// are lost isn't measured here.
func schedulerConfig(t testing.TB) scheduler.Config {
	t.Helper()
	cfg := scheduler.DefaultConfig()
	cfg.DataDir, cfg.Insecure = filepath.Join(t.TempDir(), "data"), true
	for _, addr := range []*string{&cfg.GRPCAddr, &cfg.HTTPAddr, &cfg.RaftAddr, &cfg.GossipAddr} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*addr = l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.LeaseDuration = time.Hour
	cfg.MaxServicesPerUser = 1_000_000
	cfg.LookupsPerAccount, cfg.LookupsPerUser = 0, 0
	return cfg
}

// startScheduler starts `drover scheduler`.
func startScheduler(t testing.TB, cfg scheduler.Config) (*process, error) {
	t.Helper()
	raw, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(cfg.DataDir)
	file := filepath.Join(dir, "scheduler.yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	p := &process{cfg: cfg, done: make(chan error, 1), log: filepath.Join(dir, "scheduler.log")}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(machine.Binary(t), "scheduler", "--config", file)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // when it is still there
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.done:
		return err
	case <-time.After(patience):
		return errors.New("the scheduler doesn't end")
	}
}

// leading answers the scheduler that leads, once one does; all must run.
func leading(ctx context.Context, all ...*process) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, p := range all {
			if p.leads(ctx) {
				return p, nil
			}
			select {
			case err := <-p.done:
				raw, _ := os.ReadFile(p.log) // the best that there is to tell
				return nil, fmt.Errorf("the scheduler has ended: %w\n%s", err, raw)
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no scheduler leads: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// leads asks the scheduler whether it does.
func (p *process) leads(ctx context.Context) bool {
	conn, err := net.Dial("tcp", p.cfg.GRPCAddr)
	if err != nil {
		return false // it doesn't listen yet
	}
	_ = conn.Close()
	c, err := grpc.NewClient("passthrough:///"+p.cfg.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
	return err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// token is the secret in one of the files that the bootstrap has left.
func (p *process) token(file string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(p.cfg.DataDir, file))
	return strings.TrimSpace(string(raw)), err
}

// openLog opens the Raft store of a scheduler that doesn't run.
func openLog(cfg scheduler.Config, bootstrap bool) (*raftstore.Store, error) {
	rc := raftstore.DefaultConfig()
	rc.DataDir, rc.Addr, rc.Bootstrap, rc.Logger = cfg.DataDir, cfg.RaftAddr, bootstrap, slog.New(slog.DiscardHandler)
	return raftstore.Open(rc, state.New(), nil)
}

// lead waits until a store that was opened leads.
func lead(ctx context.Context, s *raftstore.Store) error {
	for {
		select {
		case leads := <-s.LeaderChanges():
			if leads {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join makes one cluster of schedulers that have not run yet: their logs begin with the voters.
func join(ctx context.Context, cfgs []scheduler.Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var first *raftstore.Store
	var opened []*raftstore.Store
	defer func() {
		for _, s := range opened {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, cfg := range cfgs {
		s, openErr := openLog(cfg, i == 0)
		if openErr != nil {
			return openErr
		}
		opened = append(opened, s)
		if i == 0 {
			first, err = s, lead(ctx, s)
		} else {
			err = first.AddVoter(ctx, s.ID(), s.Addr())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
