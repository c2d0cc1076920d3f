package containerd

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/drover-fleet/drover/runtime"
)

// killedCode is the exit code of a process that SIGKILL ended.
const killedCode = 128 + uint32(syscall.SIGKILL)

// Status asks containerd.
func (r *Runtime) Status(ctx context.Context, id string) (runtime.Status, error) {
	ctx, cancel := r.call(ctx, callTimeout)
	defer cancel()
	st, err := r.status(ctx, id)
	return st, failed("status of "+id, err)
}

func (r *Runtime) status(ctx context.Context, id string) (runtime.Status, error) {
	c, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return runtime.Status{}, failed("container", err)
	}
	resp, err := r.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if notFound(err) {
		return r.statusOf(c, nil), nil
	}
	if err != nil {
		return runtime.Status{}, failed("task", err)
	}
	return r.statusOf(c, resp.Process), nil
}

// List asks containerd for all containers with Drover's label at once.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) {
	ctx, cancel := r.call(ctx, callTimeout)
	defer cancel()
	cs, err := r.client.ContainerService().List(ctx, `labels."`+runtime.LabelInstance+`"`)
	if err != nil {
		return nil, failed("list containers", err)
	}
	resp, err := r.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, failed("list tasks", err)
	}
	tasks := make(map[string]*tasktypes.Process, len(resp.Tasks))
	for _, t := range resp.Tasks {
		tasks[t.ID] = t
	}
	list := make([]runtime.Status, 0, len(cs))
	for _, c := range cs {
		t := tasks[c.ID]
		if t == nil { // made since, or its shim did not answer: ask for it alone
			st, err := r.status(ctx, c.ID)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, failed("list tasks", err)
			}
			list = append(list, st)
			continue
		}
		list = append(list, r.statusOf(c, t))
	}
	return list, nil
}

// statusOf puts together what containerd and the record say; t is nil when there is no task.
func (r *Runtime) statusOf(c containers.Container, t *tasktypes.Process) runtime.Status {
	rec, known := r.records.get(c.ID)
	st := runtime.Status{ID: c.ID, Labels: ownLabels(c.Labels), IP: rec.IP, Started: rec.Started, HostPort: rec.HostPort}
	switch {
	case t == nil:
		st.State = runtime.StateBroken
		exit := runtime.Exit{Code: killedCode, Reason: runtime.ExitShimKilled, Time: rec.Broken}
		if exit.Time.IsZero() {
			exit.Time = time.Now()
			if known && !rec.deleting { // the time stays the same when asked again
				if _, err := r.records.update(c.ID, func(rec *record) { rec.Broken = exit.Time }); err != nil {
					r.cfg.Logger.Warn("the time of a shim's death was not kept", "container", c.ID, "error", err)
				}
			}
		}
		st.Exit = &exit
	case t.Status == tasktypes.Status_STOPPED:
		st.State = runtime.StateExited
		st.Exit = &runtime.Exit{Code: t.ExitStatus, Reason: r.exitReason(rec, t.ExitStatus), Time: t.ExitedAt.AsTime()}
	case t.Status == tasktypes.Status_CREATED:
		st.State, st.Pid = runtime.StateCreated, int(t.Pid)
	default: // running, or paused by somebody
		st.State, st.Pid = runtime.StateRunning, int(t.Pid)
	}
	return st
}

// exitReason tells why a process ended, from what it left behind; that works after our restart too.
func (r *Runtime) exitReason(rec record, code uint32) runtime.ExitReason {
	if code == killedCode && r.cgroups.oomKills(rec.ID) > 0 {
		return runtime.ExitOOM
	}
	if rec.LogDir != "" {
		if _, dead := loggerProcess(rec.LogDir); dead {
			return runtime.ExitLoggerKilled
		}
	}
	return runtime.ExitNormal
}

// ownLabels leaves out containerd's own.
func ownLabels(labels map[string]string) map[string]string {
	own := maps.Clone(labels)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, "containerd.io/") })
	return own
}

// Signal sends a signal to the first process.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	ctx, cancel := r.call(ctx, callTimeout)
	defer cancel()
	_, err := r.client.TaskService().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: uint32(sig)})
	return failed(fmt.Sprintf("send %v to %s", sig, id), err)
}
