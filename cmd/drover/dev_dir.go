package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/daemon"
)

const (
	// devStop bounds how long a running `drover dev` may take to end, devTeardown the removal of everything.
	devStop     = 60 * time.Second
	devTeardown = 2 * time.Minute
)

// dev is the directory of one `drover dev`, locked by this process.
type dev struct {
	a    *app
	dir  string
	log  *slog.Logger
	file *os.File // of the log
	lock *os.File

	started    time.Time
	containerd *daemon.Daemon // once it runs
}

func (d *dev) path(name string) string { return filepath.Join(d.dir, name) }
func (d *dev) logPath() string         { return d.path("dev.log") }
func (d *dev) nodeDir(n int) string    { return d.path(fmt.Sprintf("nodes/dev-%d", n)) }

// newDev checks the machine, makes the directory and locks it.
func (a *app) newDev(dir string, level slog.Level) (*dev, error) {
	if err := checkMachine(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &dev{a: a, dir: dir, started: a.now()}
	if d.lock, err = os.OpenFile(d.path("dev.lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600); err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if !d.tryLock() {
		pid := d.owner()
		d.lock.Close()
		return nil, &inUseError{dir, pid}
	}
	if d.file, err = os.OpenFile(d.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		d.lock.Close()
		return nil, fmt.Errorf("open the log: %w", err)
	}
	d.log = slog.New(slog.NewTextHandler(d.file, &slog.HandlerOptions{Level: level}))
	return d, nil
}

// inUseError is a directory that another process has locked.
type inUseError struct {
	dir string
	pid int
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("data directory %s is in use by process %d: end that one, run `drover dev stop --data-dir %s`, or choose another --data-dir", e.dir, e.pid, e.dir)
}

// tryLock takes the lock, which ends with the process, and leaves the process's number in the file.
func (d *dev) tryLock() bool {
	if unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	_, err := d.lock.WriteAt([]byte(fmt.Sprintf("%-10d\n", os.Getpid())), 0)
	return err == nil
}

func (d *dev) owner() int {
	text, err := io.ReadAll(io.NewSectionReader(d.lock, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

func (d *dev) close() {
	d.file.Close()
	d.lock.Close()
}

// checkMachine says in one line what is missing.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("drover dev needs root: containers, network namespaces and port maps are made; run it with sudo")
	}
	var missing []string
	for _, program := range []string{"containerd", "runc", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if !cniInstalled() {
		missing = append(missing, "the CNI plugins")
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing on this machine: %s; install them, on Debian: apt-get install containerd runc containernetworking-plugins iptables", strings.Join(missing, ", "))
	}
	return nil
}

func cniInstalled() bool {
	for _, dir := range []string{"/opt/cni/bin", "/usr/lib/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "portmap")); err == nil {
			return true
		}
	}
	return false
}

// containerdConfig names everything after the directory, so that several of them do not meet.
func (d *dev) containerdConfig() containerdConfig {
	sum := sha256.Sum256([]byte(d.dir))
	tag := hex.EncodeToString(sum[:3])
	c := containerdConfig{
		Bridge: "drd" + tag, Subnet: fmt.Sprintf("10.%d.%d.0/20", 100+sum[3]%64, sum[4]&0xf0), CgroupParent: "/drover-dev-" + tag,
	}
	if d.containerd != nil {
		c.Socket = d.containerd.Socket()
	}
	return c
}

// saveContexts lets the next command find this scheduler.
func (d *dev) saveContexts(c savedContext) error {
	if err := saveContext(d.path("context.yaml"), c); err != nil {
		return err
	}
	if path := d.a.contextPath(); path != "" {
		return saveContext(path, c)
	}
	return nil
}

// leave ends what run started, when scheduler and agents have ended.
func (d *dev) leave(cleanup bool) error {
	if cleanup {
		return d.teardown()
	}
	if d.containerd != nil {
		d.containerd.Detach()
		d.say("\ncontainerd and its containers run on; `drover dev stop` removes them")
	}
	return nil
}

// teardown removes containers, network, containerd and files. Scheduler and agents must have ended.
func (d *dev) teardown() error {
	ctx, cancel := context.WithTimeout(context.Background(), devTeardown)
	defer cancel()
	d.say("removing containers, network, containerd and %s", d.dir)
	if d.containerd == nil {
		c, err := daemon.Start(ctx, daemon.Config{DataDir: d.path("containerd"), Logger: d.log})
		if err != nil {
			return err
		}
		d.containerd = c
	}
	if err := d.removeContainers(ctx); err != nil {
		return err
	}
	if err := d.containerd.Remove(); err != nil {
		return err
	}
	if err := d.forgetContext(); err != nil {
		return err
	}
	for _, name := range []string{"scheduler", "nodes", "context.yaml", "dev.log", "dev.lock"} {
		if err := os.RemoveAll(d.path(name)); err != nil {
			return fmt.Errorf("remove the data directory: %w", err)
		}
	}
	if err := os.Remove(d.dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove the data directory: %w", err)
	}
	return nil
}

func (d *dev) removeContainers(ctx context.Context) (err error) {
	cfg := agentConfig{Config: agent.DefaultConfig(), Containerd: d.containerdConfig()}
	cfg.DataDir = d.nodeDir(1)
	rt, err := newContainerd(ctx, cfg, func() []devices.Device { return nil }, d.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	if err := deleteAllContainers(ctx, rt); err != nil {
		return err
	}
	if err := rt.RemoveNetwork(ctx); err != nil {
		return err
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, err := filepath.Glob(pattern + cfg.Containerd.CgroupParent)
		if err != nil {
			return fmt.Errorf("find the cgroups: %w", err)
		}
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil {
				return fmt.Errorf("remove the cgroups: %w", err)
			}
		}
	}
	return nil
}

func deleteAllContainers(ctx context.Context, rt *containerd.Runtime) error {
	list, err := rt.List(ctx)
	if err != nil {
		return fmt.Errorf("list the containers: %w", err)
	}
	for _, c := range list {
		if err := rt.Delete(ctx, c.ID); err != nil {
			return fmt.Errorf("delete container %s: %w", c.ID, err)
		}
	}
	return nil
}

// forgetContext removes the user's context file when it is this directory's.
func (d *dev) forgetContext() error {
	saved, err := d.a.loadContext()
	if err != nil || !strings.HasPrefix(saved.TokenFile, d.dir+string(filepath.Separator)) {
		return nil //nolint:nilerr // a context file that can't be read isn't ours to remove
	}
	if err := os.Remove(d.a.contextPath()); err != nil {
		return fmt.Errorf("remove the context file: %w", err)
	}
	return nil
}

func (a *app) devStopCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "stop", Short: "End `drover dev`, and remove its containers, network, containerd and files",
		Example: "  drover dev stop\n  drover dev stop --data-dir /tmp/dev",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(filepath.Join(dir, "dev.lock")); isNotExist(err) {
				return fmt.Errorf("no `drover dev` has left anything in %s", dir)
			}
			d, err := a.takeOver(cmd.Context(), dir)
			if err != nil {
				return err
			}
			defer d.close()
			return d.teardown()
		},
	}
	dataDirFlag(cmd, &dir)
	return cmd
}

// takeOver ends the process that runs in the directory and locks it.
func (a *app) takeOver(ctx context.Context, dir string) (*dev, error) {
	ctx, cancel := context.WithTimeout(ctx, devStop)
	defer cancel()
	told := 0
	for {
		d, err := a.newDev(dir, slog.LevelInfo)
		var busy *inUseError
		if !errors.As(err, &busy) {
			return d, err
		}
		if busy.pid > 0 && busy.pid != told {
			fmt.Fprintf(a.out, "ending process %d\n", busy.pid)
			if err := syscall.Kill(busy.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("end process %d: %w", busy.pid, err)
			}
			told = busy.pid
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return nil, about(fmt.Sprintf("waited %s", duration(devStop)), busy)
		}
	}
}
