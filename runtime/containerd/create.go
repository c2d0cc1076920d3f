package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime"
)

const (
	snapshotter = "overlayfs"
	runcRuntime = "io.containerd.runc.v2"
	gcRoot      = "containerd.io/gc.root" // keeps a snapshot that nothing refers to yet
)

// Create makes the container and its network at the same time: neither needs the other before the
// process starts.
func (r *Runtime) Create(ctx context.Context, s runtime.Spec) (runtime.Status, error) {
	ctx, cancel := r.call(ctx, createTimeout)
	defer cancel()
	op := "create " + s.ID
	if st, err := r.status(ctx, s.ID); err == nil {
		if rec, ok := r.records.get(s.ID); ok && rec.Task {
			return st, nil
		}
		if r.recover(s, st) {
			st, err := r.status(ctx, s.ID)
			return st, failed(op, err)
		}
		if err := r.delete(ctx, s.ID); err != nil { // made in part
			return runtime.Status{}, failed(op, err)
		}
	} else if !errors.Is(err, runtime.ErrNotFound) {
		return runtime.Status{}, failed(op, err)
	}
	img, err := r.present(ctx, s.Image, s.Digest)
	if err != nil {
		return runtime.Status{}, failed(op, err)
	}
	_, err = r.records.update(s.ID, func(rec *record) {
		*rec = record{ID: s.ID, Host: s.HostNetwork, Port: s.Port, LogDir: s.LogDir}
	})
	if err == nil {
		err = r.assemble(ctx, s, img)
	}
	if err != nil {
		clean, cancel := r.call(context.WithoutCancel(ctx), createTimeout)
		defer cancel()
		return runtime.Status{}, failed(op, errors.Join(err, r.delete(clean, s.ID)))
	}
	rec, _ := r.records.get(s.ID)
	r.loggers.add(s.ID, s.LogDir)
	return runtime.Status{ID: s.ID, Labels: maps.Clone(s.Labels), State: runtime.StateCreated, Pid: rec.Pid, IP: rec.IP}, nil
}

// recover makes the record of a container that has a task and a network but lost it, or whose maker died
// before writing it. Where it answers false the container has to be made anew.
func (r *Runtime) recover(s runtime.Spec, st runtime.Status) bool {
	if st.State == runtime.StateBroken {
		return false
	}
	rec := record{ID: s.ID, Host: s.HostNetwork, Port: s.Port, LogDir: s.LogDir, Task: true, Pid: st.Pid}
	if st.State == runtime.StateRunning {
		rec.Started = processStarted(st.Pid)
	}
	if !s.HostNetwork {
		var err error
		if rec.IP, rec.Veth, err = r.network.attached(s.ID); err != nil || rec.IP == "" {
			r.cfg.Logger.Warn("a container without a record is made anew", "container", s.ID, "state", st.State, "error", err)
			return false
		}
	}
	if _, err := r.records.update(s.ID, func(now *record) { *now = rec }); err != nil {
		r.cfg.Logger.Warn("a container's record cannot be written", "container", s.ID, "error", err)
		return false
	}
	r.cfg.Logger.Info("adopted a container without a record", "container", s.ID, "state", st.State)
	r.loggers.add(s.ID, s.LogDir)
	return true
}

// assemble makes network and container side by side.
func (r *Runtime) assemble(ctx context.Context, s runtime.Spec, img *image) error {
	if err := os.MkdirAll(s.LogDir, 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	dir := r.records.path(s.ID)
	if err := writeFiles(dir, s); err != nil {
		return err
	}
	attached := make(chan error, 1)
	if s.HostNetwork {
		attached <- nil
	} else {
		if err := makeNetns(r.network.netns(s.ID)); err != nil {
			return err
		}
		go func() { attached <- r.attach(ctx, s, dir) }()
	}
	pid, err := r.createTask(ctx, s, img)
	err = errors.Join(err, <-attached)
	if err != nil {
		return err
	}
	_, err = r.records.update(s.ID, func(rec *record) { rec.Task, rec.Pid = true, int(pid) })
	return err
}

func (r *Runtime) attach(ctx context.Context, s runtime.Spec, dir string) error {
	ip, veth, err := r.network.attach(ctx, s.ID)
	if err != nil {
		return err
	}
	if _, err := r.records.update(s.ID, func(rec *record) { rec.IP, rec.Veth = ip, veth }); err != nil {
		return err
	}
	return addHost(dir, ip, s.Hostname)
}

// createTask makes snapshot, container and task.
func (r *Runtime) createTask(ctx context.Context, s runtime.Spec, img *image) (pid uint32, err error) {
	netns := ""
	if !s.HostNetwork {
		netns = r.network.netns(s.ID)
	}
	spec, err := ociSpec(s, img.config, host{
		cgroupPath: r.cgroups.path(s.ID), cgroupV2: r.cgroups.v2, swap: r.cgroups.swap, netns: netns, filesDir: r.records.path(s.ID),
		maxNofile: hardLimit(unix.RLIMIT_NOFILE), maxMemlock: hardLimit(unix.RLIMIT_MEMLOCK),
	})
	if err != nil {
		return 0, err
	}
	rootfs, err := r.prepare(ctx, s.ID, img.chainID)
	if err != nil {
		return 0, fmt.Errorf("make snapshot: %w", err)
	}
	c := containers.Container{
		ID: s.ID, Labels: s.Labels, Image: img.name, Snapshotter: snapshotter, SnapshotKey: s.ID,
		Runtime: containers.RuntimeInfo{Name: runcRuntime},
	}
	if user := img.config.User; user != "" { // looks names up in the image's own files
		if err := r.setUser(ctx, user, &c, spec); err != nil {
			return 0, err
		}
	}
	if err := r.giveDevices(ctx, s, spec); err != nil { // after the user, who has to be able to open them
		return 0, err
	}
	if c.Spec, err = typeurl.MarshalAny(spec); err != nil {
		return 0, fmt.Errorf("encode OCI specification: %w", err)
	}
	if _, err := r.client.ContainerService().Create(ctx, c); err != nil {
		return 0, fmt.Errorf("make container: %w", err)
	}
	output := logURI(r.cfg.LoggerBinary, s.LogDir)
	request := &tasksapi.CreateTaskRequest{ContainerID: s.ID, Stdout: output, Stderr: output}
	for _, m := range rootfs {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	task, err := r.client.TaskService().Create(ctx, request)
	if err != nil {
		return 0, fmt.Errorf("make task: %w", native(err))
	}
	return task.Pid, nil
}

// hardLimit answers one of this process's; without an answer nothing is bounded.
func hardLimit(resource int) uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return infinity
	}
	return limit.Max
}

// prepare makes the container's snapshot; one that an interrupted attempt left is made anew.
func (r *Runtime) prepare(ctx context.Context, id, parent string) ([]mount.Mount, error) {
	sn := r.client.SnapshotService(snapshotter)
	label := snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339)})
	mounts, err := sn.Prepare(ctx, id, parent, label)
	if !errdefs.IsAlreadyExists(err) {
		return mounts, err
	}
	if err := sn.Remove(ctx, id); err != nil {
		return nil, err
	}
	return sn.Prepare(ctx, id, parent, label)
}

func (r *Runtime) setUser(ctx context.Context, user string, c *containers.Container, spec *specs.Spec) error {
	for _, opt := range []oci.SpecOpts{oci.WithUser(user), oci.WithAdditionalGIDs(user)} {
		if err := opt(ctx, r.client, c, spec); err != nil {
			return fmt.Errorf("%w: user %q of the image: %w", runtime.ErrFatal, user, err)
		}
	}
	return nil
}

// logURI makes the shim run "binary logger dir": a query's key and value become two arguments.
func logURI(binary, dir string) string {
	u := url.URL{Scheme: "binary", Path: filepath.Clean(binary), RawQuery: url.Values{"logger": {dir}}.Encode()}
	return u.String()
}

// Start starts the created process.
func (r *Runtime) Start(ctx context.Context, id string) (runtime.Status, error) {
	ctx, cancel := r.call(ctx, createTimeout)
	defer cancel()
	op := "start " + id
	rec, ok := r.records.get(id)
	if ok && !rec.Started.IsZero() {
		st, err := r.status(ctx, id)
		return st, failed(op, err)
	}
	resp, err := r.client.TaskService().Start(ctx, &tasksapi.StartRequest{ContainerID: id})
	if err != nil {
		st, look := r.status(ctx, id)
		if look == nil && st.State != runtime.StateCreated {
			return st, nil
		}
		return runtime.Status{}, failed(op, native(err))
	}
	if rec, err = r.records.update(id, func(rec *record) { rec.Pid, rec.Started = int(resp.Pid), time.Now() }); err != nil {
		return runtime.Status{}, failed(op, err)
	}
	return runtime.Status{ID: id, State: runtime.StateRunning, Pid: rec.Pid, IP: rec.IP, Started: rec.Started, HostPort: rec.HostPort}, nil
}

// Publish maps the port; again with the same port is no change, with another one moves it.
func (r *Runtime) Publish(ctx context.Context, id string, hostPort int) error {
	rec, ok := r.records.get(id)
	if !ok {
		return fmt.Errorf("publish %s: %w", id, runtime.ErrNotFound)
	}
	if rec.Host || rec.HostPort == hostPort {
		return nil
	}
	return r.setHostPort(ctx, "publish "+id, id, hostPort)
}

// Withdraw takes the mapping back; connections that stand go on.
func (r *Runtime) Withdraw(ctx context.Context, id string) error {
	if rec, ok := r.records.get(id); !ok || rec.HostPort == 0 {
		return nil
	}
	return r.setHostPort(ctx, "withdraw "+id, id, 0)
}

func (r *Runtime) setHostPort(ctx context.Context, op, id string, port int) error {
	before, _ := r.records.get(id)
	if port != 0 {
		if err := r.holds.take(port); err != nil {
			return failed(op, err)
		}
	}
	if _, err := r.records.update(id, func(rec *record) { rec.HostPort = port }); err != nil {
		return failed(op, err)
	}
	if err := r.network.firewall.publish(ctx, r.records.list()); err != nil {
		_, undo := r.records.update(id, func(rec *record) { rec.HostPort = before.HostPort })
		return failed(op, errors.Join(err, undo, r.holds.release(port)))
	}
	return failed(op, r.holds.release(before.HostPort))
}

// RepairNetwork looks at the kernel's rules and interfaces, and puts back what is missing.
func (r *Runtime) RepairNetwork(ctx context.Context) (int, error) {
	n, err := r.network.repair(ctx)
	return n, failed("repair network", err)
}

// RemoveNetwork takes away the bridge and every rule: for when the last container is gone for good.
func (r *Runtime) RemoveNetwork(ctx context.Context) error {
	return failed("remove network", r.network.remove(ctx))
}
