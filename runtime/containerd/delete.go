package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Delete removes all that Create made, whatever of it is there: also what a killed shim left.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	ctx, cancel := r.call(ctx, createTimeout)
	defer cancel()
	return failed("delete "+id, r.delete(ctx, id))
}

func (r *Runtime) delete(ctx context.Context, id string) error {
	published := r.forget(id)
	if published {
		if err := r.network.firewall.publish(ctx, r.records.list()); err != nil {
			return err
		}
	}
	if err := r.deleteTask(ctx, id); err != nil {
		return err
	}
	detached := make(chan error, 1)
	go func() { detached <- r.network.detach(ctx, id) }()
	err := r.deleteContainer(ctx, id)
	if err := errors.Join(err, r.cgroups.remove(id), <-detached); err != nil {
		return err
	}
	r.loggers.drop(id)
	rec, _ := r.records.get(id)
	return errors.Join(r.records.remove(id), r.holds.release(rec.HostPort))
}

// forget marks the container as being removed and says whether a port is mapped to it.
func (r *Runtime) forget(id string) bool {
	rec, ok := r.records.get(id)
	if ok {
		r.records.deleting(id)
	}
	return rec.HostPort != 0
}

// deleteTask kills the container's processes and removes its task.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	tasks := r.client.TaskService()
	_, err := tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL), All: true})
	if err != nil && !notFound(err) {
		return fmt.Errorf("kill: %w", native(err))
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if _, err = tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: id}); err != nil && !notFound(err) {
			return fmt.Errorf("wait for the killed process: %w", native(err))
		}
		_, err = tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: id})
		if err == nil || notFound(err) {
			return nil
		}
		if !errdefs.IsFailedPrecondition(native(err)) {
			return fmt.Errorf("delete task: %w", native(err))
		}
		select { // its exit is not yet known everywhere
		case <-ctx.Done():
			return fmt.Errorf("delete task: %w", errors.Join(ctx.Err(), native(err)))
		case <-time.After(wait):
		}
	}
}

// deleteContainer removes container and snapshot.
func (r *Runtime) deleteContainer(ctx context.Context, id string) error {
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container: %w", err)
	}
	sn := r.client.SnapshotService(snapshotter)
	err := sn.Remove(ctx, id)
	if err == nil || errdefs.IsNotFound(err) {
		return unmountRootfs(r.cfg.Namespace, id)
	}
	if err := unmountRootfs(r.cfg.Namespace, id); err != nil {
		return err
	}
	if err := sn.Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete snapshot: %w", err)
	}
	return nil
}

// unmountRootfs unmounts a root file system that a killed shim left mounted.
func unmountRootfs(namespace, id string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	suffix := "/" + namespace + "/" + id + "/rootfs"
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasSuffix(fields[4], suffix) {
			continue
		}
		if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", fields[4], err)
		}
	}
	return nil
}
