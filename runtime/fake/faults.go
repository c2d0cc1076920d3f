package fake

import (
	"github.com/drover-fleet/drover/runtime"
)

// SetUnavailable makes every call answer ErrUnavailable, or ends that. Containers live on meanwhile;
// watchers get EventResync when it ends.
func (r *Runtime) SetUnavailable(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	back := r.unavailable && !away
	r.unavailable = away
	if back {
		r.tellLocked(runtime.Event{Kind: runtime.EventResync})
	}
}

// FailPulls makes the next pulls fail, one for each error.
func (r *Runtime) FailPulls(errs ...error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullErrors = append(r.pullErrors, errs...)
}

// Exit ends a container's process, also while the runtime is unavailable.
func (r *Runtime) Exit(id string, code uint32, reason runtime.ExitReason) error {
	return r.with("exit", id, func(c *container) { r.exitLocked(c, code, reason) })
}

// Break ends a container as a killed shim does.
func (r *Runtime) Break(id string) error {
	return r.with("break", id, func(c *container) { r.exitLocked(c, 137, runtime.ExitShimKilled) })
}

// KillLogger reports that the container's logger died; the container runs on.
func (r *Runtime) KillLogger(id string) error {
	return r.with("kill logger of", id, func(*container) {
		r.tellLocked(runtime.Event{Kind: runtime.EventLoggerDied, ID: id})
	})
}

// SetHealthy says whether the default handler answers 200 or 503.
func (r *Runtime) SetHealthy(id string, healthy bool) error {
	return r.with("set health of", id, func(c *container) { c.unhealthy = !healthy })
}

// BreakNetwork makes the next RepairNetwork put n rules back.
func (r *Runtime) BreakNetwork(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = n
}

func (r *Runtime) with(op, id string, f func(*container)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.findLocked(op, id)
	if err != nil {
		return err
	}
	f(c)
	return nil
}

// Containers answers the IDs of all containers, also while the runtime is unavailable.
func (r *Runtime) Containers() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id := range r.containers {
		ids = append(ids, id)
	}
	return ids
}

// Spec answers what a container was made from.
func (r *Runtime) Spec(id string) (runtime.Spec, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return runtime.Spec{}, false
	}
	return c.spec, true
}
