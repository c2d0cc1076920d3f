// Package instance walks each instance of this node through its life (DESIGN §5).
//
// A Manager holds a machine for each record of the journal. A machine is one goroutine that does one step
// at a time; a step answers "again", "when something happens, or later at this time", or "gone". What
// happens elsewhere (a new assignment set, an exit, a probe's result) is put into the machine's mailbox
// and wakes it; a wish to stop also cuts the running step short. All waiting is thereby in one place, and
// no step follows another by a tick.
//
// Up: Accepted, Pulling, Preparing (hooks, create), Starting, Running; the port is published while the
// first probes run, and the instance is ready when both are done. A member of a gang besides rank 0, of which no
// health check is asked, is not probed: it is ready when it runs. Down: Draining (not ready, still
// serving), Stopping (SIGTERM, SIGKILL), delete, then Reclaiming and Reaped or the next attempt. After an exit: Exited,
// delete, back-off, next attempt, and after five failed restarts Failed.
//
// What survives a crash. The attempt and its port are journalled before anything is made, and names derive
// from them, so the machine's first step is always to look: a container that runs is adopted, one that
// exited meanwhile is treated as an exit seen now. Create, start and their states need no write of their
// own before they happen; the write of "running" overlaps with the first probe. Reports carry sequence
// numbers reserved in the journal in blocks, so that they keep growing without a write each.
//
// An instance whose devices are gone when its container is to be made fails, with the event DeviceFailed, and holds
// nothing on the node; the scheduler places another. While a driver doesn't answer, it waits.
//
// An instance whose device fails isn't ready any more when DeviceFailed returns, whatever a step of it waits for, and
// never will be: why it has to leave is journalled, for a container that can't be deleted may outlive an agent.
//
// Devices are given back only when they are free. Before an instance that may have used some is reaped, the
// drivers are asked; while something is left on a device the instance is Reclaiming: container and ports are gone,
// its devices still its own. What isn't free in time is put into quarantine, which the scheduler learns before it
// learns that the instance is reaped. The next attempt of the same instance gets its devices as they are, and
// an instance of which this process knows that no container was made has nothing to give back; an agent that
// was started meanwhile doesn't know, and asks.
//
// An endpoint that a client may still know is served for withdraw_seconds from when it left the look-up's
// answers: from now when the scheduler asked for the stop, from a second later when this node withdrew it
// (a restart, a stop by its operator, a failed probe), for its report has to arrive first. When a container
// or its logger dies, the withdrawal is told before anything else is done.
//
// Unknown is never absent: only ErrNotFound lets a machine conclude anything; while the runtime is
// unavailable it waits. Containers of instances that the journal does not know are removed only after
// this process has received a current assignment set of its own cluster.
//
// A set of another cluster, of an older restore epoch or generation is refused. A set whose restore epoch is above
// what an operator has confirmed for this node is of a cluster that was restored from a backup: its instances are
// taken in, but instances and containers that it doesn't name stay and run on (kept, and told in the facts), and what it
// names anew waits: its devices and memory may be theirs. What was asked to stop stops. When it is confirmed,
// what is kept is removed like all else, and what waits starts once that is gone: a device has one holder.
//
// Without a scheduler instances run on, but for those whose on_disconnect says otherwise: those are stopped when the
// session has been gone for replace_after_seconds, without draining, for the look-ups left them out long ago. The time
// is the host's since its boot, so that a suspended host doesn't gain any. It is journalled when a session ends and every 10 s
// while one lasts, and goes on while no agent runs: one that starts late has 3 s to reach a scheduler. After a
// reboot, which ends every container, nobody knows for how long there was none: such instances are started only when a
// scheduler is there.
//
// What the agent before this one left as ready is reported only when it has been compared with what is there.
package instance
