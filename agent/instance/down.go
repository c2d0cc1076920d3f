package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// exited takes in that the process of this attempt ended.
func (m *machine) exited(exit runtime.Exit, state string) outcome {
	status := &fleetv1.ExitStatus{Code: exit.Code, Reason: string(exit.Reason), Time: timestamppb.New(exit.Time)}
	switch state {
	case fleetv1.InstanceExited, fleetv1.InstanceFailed, fleetv1.InstanceReclaiming, fleetv1.InstanceReaped:
		return again // known already
	case fleetv1.InstanceStopping:
		m.ended = true
		status.Reason = "Stopped"
		m.update(func(o *fleetv1.InstanceObserved) {
			status.Attempt, o.LastExit, o.Pid = o.Attempt, status, 0
		})
		return again
	}
	return m.attemptEnded(status)
}

// attemptEnded notes an exit that nobody asked for.
func (m *machine) attemptEnded(status *fleetv1.ExitStatus) outcome {
	steady := !m.readySince.IsZero() && time.Since(m.readySince) >= steadyAfter
	m.save(func(o *fleetv1.InstanceObserved) {
		if steady {
			o.Restarts = 0
		}
		status.Attempt = o.Attempt
		o.State, o.Ready, o.Health, o.Pid, o.LastExit = fleetv1.InstanceExited, false, "", 0, status
		o.Reason = fmt.Sprintf("attempt %d ended with code %d (%s)", o.Attempt, status.GetCode(), status.GetReason())
		if status.GetMessage() != "" {
			o.Reason += ": " + status.GetMessage()
		}
		if o.Restarts < maxRestarts {
			o.RetryTime = timestamppb.New(time.Now().Add(restartDelay(o.Restarts)))
		}
		m.noteLocked(fleetv1.EventWarning, "InstanceExited", o.Reason)
	})
	m.stopProbe() // may be slow: the endpoint is withdrawn by now
	return again
}

// loggerGone ends an attempt whose output is lost: what it prints fails with EPIPE. Its container may
// still run: the back-off begins with deleting it.
func (m *machine) loggerGone() outcome {
	return m.attemptEnded(&fleetv1.ExitStatus{
		Code: 137, Reason: string(runtime.ExitLoggerKilled), Time: timestamppb.Now(), Message: "its logger was killed",
	})
}

// backOff deletes what is left of an ended attempt, and starts the next one when its time has come.
func (m *machine) backOff(ctx context.Context) outcome {
	if err := m.delete(ctx, m.container()); err != nil {
		return m.later(err)
	}
	o := m.snapshot().GetObserved()
	if o.GetRestarts() >= maxRestarts {
		m.fatal = fmt.Sprintf("gave up after %d failed restarts: %s", o.GetRestarts(), o.GetReason())
		return again
	}
	if wait := time.Until(o.GetRetryTime().AsTime()); wait > 0 {
		return outcome{wait: wait}
	}
	m.nextAttempt(func(o *fleetv1.InstanceObserved) {
		o.Restarts++
		m.noteLocked(fleetv1.EventNormal, "InstanceRestarted", fmt.Sprintf("attempt %d begins: restart %d of %d", o.Attempt, o.Restarts, maxRestarts))
	})
	return again
}

// nextAttempt begins again at Accepted; the container of the last attempt is gone.
func (m *machine) nextAttempt(change func(o *fleetv1.InstanceObserved)) {
	m.forgetAttempt()
	m.save(func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.Health, o.Reason, o.Pid = fleetv1.InstanceAccepted, false, "", "", 0
		o.StartTime, o.RetryTime = nil, nil
		m.exit, m.loggerDied = nil, false // of the last attempt, under the lock that events take
		o.Attempt++
		if m.hostNetwork() && !m.rec.Instance.GetSpec().GetApi().GetFixedPort() {
			o.Port = 0 // it may have failed because of it
		}
		change(o)
	})
}

func (m *machine) forgetAttempt() {
	m.stopProbe()
	m.held, m.healthy, m.published, m.readySince, m.leftAnswers = false, false, false, time.Time{}, time.Time{}
	m.drainUntil, m.killAt, m.killed, m.ended, m.failures = time.Time{}, time.Time{}, false, false, 0
	m.address, m.taskUntil = "", time.Time{}
}

// delete removes the attempt's container. Nothing there is as good.
func (m *machine) delete(ctx context.Context, id string) error {
	m.stopProbe()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.g.cfg.Runtime.Delete(ctx, id); err != nil {
		return err
	}
	m.g.cfg.FaultPoint("deleted")
	m.failures = 0
	return nil
}

// stop does the next operation on the way down; then the instance is reaped, or its next attempt begins.
func (m *machine) stop(ctx context.Context, want intent, state string) outcome {
	spec := m.rec.Instance.GetSpec()
	switch state {
	case fleetv1.InstanceAccepted, fleetv1.InstancePulling:
		if want == restart { // nothing runs yet that could be restarted
			m.save(func(o *fleetv1.InstanceObserved) { o.Restarted = m.rec.Instance.GetDesired().GetRestart() })
			return again
		}
		return m.down(ctx, want)
	case fleetv1.InstanceRunning:
		return m.drain(want)
	case fleetv1.InstanceDraining:
		if m.cutOff() {
			return m.drain(want)
		}
		if m.drainUntil.IsZero() { // an earlier agent began: nobody knows how long it has been
			m.drainUntil = time.Now().Add(time.Duration(spec.GetWithdrawSeconds()) * time.Second)
		}
		if wait := max(time.Until(m.drainUntil), m.untilTaskLeft()); wait > 0 {
			return outcome{wait: wait}
		}
		m.stopProbe()
		m.update(func(o *fleetv1.InstanceObserved) { o.State = fleetv1.InstanceStopping })
		return again
	case fleetv1.InstanceStopping:
		if !m.ended {
			return m.end(ctx, time.Duration(spec.GetGracePeriodSeconds())*time.Second)
		}
	}
	return m.down(ctx, want)
}

// drain withdraws the endpoint and lets the instance serve on until no client may still use it. A stop that
// came from the scheduler was preceded by the end of its answers; a withdrawal by this node has to reach it first.
func (m *machine) drain(want intent) outcome {
	m.readySince = time.Time{}
	if m.cutOff() { // the look-ups have left it out since the schedulers lost its node
		m.stopProbe()
		m.save(func(o *fleetv1.InstanceObserved) {
			o.State, o.Ready, o.Reason = fleetv1.InstanceStopping, false, cutOffReason
		})
		return again
	}
	m.save(func(o *fleetv1.InstanceObserved) {
		if o.Ready {
			m.leftAnswers = time.Now()
			if want == restart || m.rec.StoppedHere {
				m.leftAnswers = m.leftAnswers.Add(reportTime)
			}
		}
		m.drainUntil = m.leftAnswers.Add(time.Duration(m.rec.Instance.GetSpec().GetWithdrawSeconds()) * time.Second)
		o.State, o.Ready, o.Reason = fleetv1.InstanceDraining, false, m.rec.Instance.GetDesired().GetReason()
	})
	m.leaveTask()
	return again
}

// end signals the process: SIGTERM, after the grace period SIGKILL, and soon after that Delete, which
// kills as well.
func (m *machine) end(ctx context.Context, grace time.Duration) outcome {
	if wait := time.Until(m.killAt); !m.killAt.IsZero() && wait > 0 {
		return outcome{wait: wait}
	}
	sig, patient := syscall.SIGTERM, grace
	switch {
	case m.killed:
		m.ended = true
		return again
	case !m.killAt.IsZero():
		sig, patient = syscall.SIGKILL, 5*time.Second
	}
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := m.g.cfg.Runtime.Signal(callCtx, m.container(), sig)
	switch {
	case errors.Is(err, runtime.ErrNotFound):
		m.ended = true
		return again
	case err != nil:
		return m.later(err)
	}
	m.failures = 0
	m.killed = sig == syscall.SIGKILL
	m.killAt = time.Now().Add(patient)
	return again
}

// down deletes the container and concludes.
func (m *machine) down(ctx context.Context, want intent) outcome {
	if want == stop {
		return m.reap(ctx)
	}
	if err := m.delete(ctx, m.container()); err != nil {
		return m.later(err)
	}
	m.nextAttempt(func(o *fleetv1.InstanceObserved) {
		o.Restarted = m.rec.Instance.GetDesired().GetRestart()
		m.noteLocked(fleetv1.EventNormal, "InstanceRestarted", fmt.Sprintf("attempt %d begins: a restart was asked for", o.Attempt))
	})
	return again
}

// reap ends a stop: what is left to do is to have its devices free again.
func (m *machine) reap(ctx context.Context) outcome {
	if err := m.delete(ctx, m.container()); err != nil {
		return m.later(err)
	}
	m.forgetAttempt()
	m.fatal = ""
	m.g.ports.release(m.id)
	return m.reclaim(ctx)
}

const nothingLeft = "stopped; nothing of it is left on the node"

// conclude says that the instance is gone but for its logs.
func (m *machine) conclude(message string) outcome {
	m.save(func(o *fleetv1.InstanceObserved) {
		if o.State == fleetv1.InstanceReclaiming {
			o.Reason = cmp.Or(m.reason, m.rec.Broken)
		}
		o.State, o.Ready, o.Health, o.Pid, o.RetryTime = fleetv1.InstanceReaped, false, "", 0, nil
		switch {
		case m.rec.StoppedHere:
			o.Reason = "stopped on the node by its operator"
		case m.rec.CutOff:
			o.Reason = cutOffReason
		}
		m.noteLocked(fleetv1.EventNormal, "InstanceReaped", message)
	})
	m.mu.Lock()
	kept := m.rec.Kept
	m.mu.Unlock()
	if kept {
		m.g.holdChanged()
	}
	return again
}

const cutOffReason = "stopped by its node, which had no scheduler"

func (m *machine) cutOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.CutOff
}

// reaped forgets an instance that the scheduler no longer names.
func (m *machine) reaped() outcome {
	m.mu.Lock()
	absent := m.rec.Absent
	m.mu.Unlock()
	if !absent {
		return outcome{}
	}
	if err := m.g.cfg.Journal.Forget(m.id); err != nil {
		return outcome{wait: patience} // the journal has failed: the agent is unhealthy and will be restarted
	}
	now := time.Now() // its logs are kept for a while from now on
	if err := os.Chtimes(filepath.Join(m.g.cfg.LogRoot, m.id), now, now); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.g.cfg.Logger.Warn("the logs of an instance that is gone may be removed early", "instance", m.id, "error", err)
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	delete(m.g.machines, m.id)
	delete(m.g.dirty, m.id)
	return outcome{gone: true}
}

// fail gives an instance up for good.
func (m *machine) fail(ctx context.Context) outcome {
	reason := m.fatal
	m.fatal = ""
	if err := m.delete(ctx, m.container()); err != nil {
		m.fatal = reason
		return m.later(err)
	}
	m.forgetAttempt()
	m.save(func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.Health, o.Pid, o.RetryTime, o.Reason = fleetv1.InstanceFailed, false, "", 0, nil, reason
		m.noteLocked(fleetv1.EventAbnormal, "InstanceFailed", reason)
	})
	return again
}

// Restart policy.
const (
	maxRestarts = 5
	steadyAfter = 10 * time.Minute
	maxDelay    = 5 * time.Minute
)

// restartDelay answers how long an instance waits before it is restarted, after so many restarts.
func restartDelay(restarts int32) time.Duration {
	return min(time.Second<<min(max(restarts, 0), 20), maxDelay)
}
