package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/agent/health"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// up does the next operation on the way to ready.
func (m *machine) up(ctx context.Context, state string) outcome {
	switch state {
	case fleetv1.InstanceAccepted, fleetv1.InstancePulling:
		return m.pullImage(ctx)
	case fleetv1.InstancePreparing:
		return m.create(ctx)
	case fleetv1.InstanceStarting:
		return m.start(ctx)
	}
	if !m.published {
		return m.publish(ctx)
	}
	return outcome{}
}

func (m *machine) hostNetwork() bool {
	return m.rec.Instance.GetSpec().GetNetwork() == fleetv1.NetworkHost
}

func (m *machine) port() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int(m.rec.Instance.Observed.Port)
}

// pullImage makes the image present. Only a pull that has to fetch something is told in events.
func (m *machine) pullImage(ctx context.Context) outcome {
	spec := m.rec.Instance.GetSpec()
	pullCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(pullStall, func() { cancel(fmt.Errorf("pull %s: nothing has come for %s", spec.GetImage(), pullStall)) })
	defer stalled.Stop()
	started, told, most := false, time.Now(), int64(0)
	request := runtime.PullRequest{Image: spec.GetImage(), Digest: spec.GetImageDigest(), Allowed: m.g.cfg.PullAllowed}
	img, err := m.g.cfg.Runtime.Pull(pullCtx, request, func(p runtime.Progress) {
		if p.DoneBytes > most {
			most = p.DoneBytes
			stalled.Reset(pullStall)
		}
		m.mu.Lock()
		m.pull = &fleetv1.PullProgress{InstanceId: m.id, Image: spec.GetImage(), DoneBytes: p.DoneBytes, TotalBytes: p.TotalBytes}
		m.mu.Unlock()
		switch {
		case !started:
			started = true
			m.update(func(o *fleetv1.InstanceObserved) {
				if o.State != fleetv1.InstancePulling { // tried again, it's the same pull
					m.noteLocked(fleetv1.EventNormal, "ImagePullStarted", "pulling "+spec.GetImage())
				}
				o.State = fleetv1.InstancePulling
			})
		case time.Since(told) > 30*time.Second:
			told = time.Now()
			m.update(func(*fleetv1.InstanceObserved) {
				m.noteLocked(fleetv1.EventNormal, "ImagePullProgress", fmt.Sprintf("pulled %.1f of %.1f MiB of %s", mebibytes(p.DoneBytes), mebibytes(p.TotalBytes), spec.GetImage()))
			})
		}
	})
	m.mu.Lock()
	m.pull = nil
	m.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil && pullCtx.Err() != nil {
			err = context.Cause(pullCtx)
		}
		if ctx.Err() == nil && !errors.Is(err, runtime.ErrUnavailable) {
			m.complain("ImagePullFailed", err)
		}
		return m.troubled(ctx, err)
	}
	m.failures = 0
	m.update(func(o *fleetv1.InstanceObserved) {
		o.State, o.Reason = fleetv1.InstancePreparing, ""
		if started {
			m.noteLocked(fleetv1.EventNormal, "ImagePulled", fmt.Sprintf("pulled %s (%.1f MiB)", spec.GetImage(), mebibytes(img.Bytes)))
		}
	})
	return again
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// create runs the hooks and makes the container; the port is decided by then, for it is in the environment.
func (m *machine) create(ctx context.Context) outcome {
	if m.port() == 0 {
		if err := m.changePort(); err != nil {
			return m.troubled(ctx, err)
		}
	}
	inst := m.snapshot()
	spec := containerSpec(inst)
	spec.LogDir = filepath.Join(m.g.cfg.LogRoot, m.id, strconv.FormatUint(uint64(inst.GetObserved().GetAttempt()), 10))
	for _, h := range m.g.cfg.Hooks {
		if err := h.Prepare(inst, &spec); err != nil {
			if h.Reason != "" {
				m.complain(h.Reason, err)
			}
			return m.troubled(ctx, err)
		}
	}
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.made = true
	if _, err := m.g.cfg.Runtime.Create(callCtx, spec); err != nil {
		if errors.Is(err, runtime.ErrDevice) {
			m.complain(deviceFailed, err)
		}
		return m.troubled(ctx, err)
	}
	m.g.cfg.FaultPoint("created")
	m.failures = 0
	m.update(func(o *fleetv1.InstanceObserved) {
		o.State, o.Reason = fleetv1.InstanceStarting, ""
		m.noteLocked(fleetv1.EventNormal, "InstanceStarting", fmt.Sprintf("starting attempt %d", o.GetAttempt()))
	})
	return again
}

func (m *machine) start(ctx context.Context) outcome {
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := m.g.cfg.Runtime.Start(callCtx, m.container())
	switch {
	case errors.Is(err, runtime.ErrNotFound): // removed behind our back: make it again
		return m.create(ctx)
	case err != nil && (ctx.Err() != nil || errors.Is(err, runtime.ErrUnavailable) || errors.Is(err, runtime.ErrFatal)):
		return m.troubled(ctx, err)
	case err != nil:
		return m.attemptEnded(&fleetv1.ExitStatus{Code: 255, Reason: "StartFailed", Time: timestamppb.Now(), Message: err.Error()})
	}
	m.g.cfg.FaultPoint("started")
	m.failures = 0
	if st.State != runtime.StateRunning { // ended by now, or the answer of an adopted one
		exit := runtime.Exit{Reason: runtime.ExitNormal, Time: time.Now()}
		if st.Exit != nil {
			exit = *st.Exit
		}
		return m.exited(exit, fleetv1.InstanceStarting)
	}
	m.update(func(o *fleetv1.InstanceObserved) {
		o.State, o.Pid, o.StartTime = fleetv1.InstanceRunning, int32(st.Pid), timestamppb.New(st.Started)
	})
	m.held = true
	staged := m.stage() // its fsync overlaps with the first probe and the publishing
	m.probe(st)
	out := m.publish(ctx)
	m.wait(staged)
	return out
}

// probe starts the prober of this attempt; results come by mail.
func (m *machine) probe(st runtime.Status) {
	m.stopProbe()
	inst := m.snapshot()
	target := health.Target{IP: st.IP, Port: int(inst.GetSpec().GetApi().GetPort()), Exec: func(ctx context.Context, command []string) (uint32, error) {
		return m.g.cfg.Runtime.Exec(ctx, st.ID, runtime.ExecRequest{Command: command})
	}}
	if m.hostNetwork() {
		target.IP, target.Port = "127.0.0.1", int(inst.GetObserved().GetPort())
	} else if target.Port == 0 {
		target.Port = defaultPort
	}
	m.address = net.JoinHostPort(target.IP, strconv.Itoa(target.Port))
	if readyOnceRunning(inst) {
		if !m.healthy {
			m.mail(func() { m.result = &health.Result{Healthy: true} })
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // ended by stopProbe, which run defers
	done := make(chan struct{})
	healthy := m.healthy
	go func() {
		defer close(done)
		health.Watch(ctx, inst.GetSpec().GetHealth(), target, healthy, func(r health.Result) {
			m.mail(func() { m.result = &r })
		})
	}()
	m.stopProbe = func() {
		cancel()
		<-done
		m.mu.Lock()
		m.result = nil
		m.mu.Unlock()
		m.stopProbe = func() {}
	}
}

// readyOnceRunning says that nothing is asked of the instance but that it runs: a member of a gang besides rank 0
// serves that one, and need not listen anywhere. With a check of its own it's that which decides.
func readyOnceRunning(inst *fleetv1.Instance) bool {
	return inst.GetSpec().GetGang().GetRank() > 0 && inst.GetSpec().GetHealth() == nil
}

// publish maps the host port. A port that somebody else took meanwhile is replaced.
func (m *machine) publish(ctx context.Context) outcome {
	if m.published {
		return m.settle()
	}
	if m.hostNetwork() {
		m.published = true
		return m.settle()
	}
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id, port := m.container(), m.port()
	var err error
	if !bindable(port) {
		err = fmt.Errorf("port %d is taken by another program", port)
	} else {
		err = m.g.cfg.Runtime.Publish(callCtx, id, port)
	}
	switch {
	case err == nil:
		m.failures = 0
		m.published = true
		return m.settle()
	case ctx.Err() != nil, errors.Is(err, runtime.ErrUnavailable), errors.Is(err, runtime.ErrNotFound):
		return m.troubled(ctx, err) // a container that is gone announces its exit
	}
	m.g.cfg.Logger.Warn("the port can't be published; choosing another", "instance", m.id, "port", port, "error", err)
	if changeErr := m.changePort(); changeErr != nil {
		return m.troubled(ctx, errors.Join(err, changeErr))
	}
	if m.failures++; m.failures < 10 {
		return again
	}
	return m.troubled(ctx, err)
}

// changePort takes another host port and journals it.
func (m *machine) changePort() error {
	port, err := m.g.choosePort(m.snapshot())
	if err != nil {
		return err
	}
	m.save(func(o *fleetv1.InstanceObserved) { o.Port = int32(port) })
	return nil
}

// judge takes in a change of health.
func (m *machine) judge(r health.Result) {
	m.healthy = r.Healthy
	if r.Healthy {
		how := "passes its health check"
		if readyOnceRunning(m.rec.Instance) {
			how = "runs: a member of a gang needs no open port"
		}
		m.update(func(o *fleetv1.InstanceObserved) {
			o.Health, o.Reason = fleetv1.Healthy, ""
			m.noteLocked(fleetv1.EventNormal, "InstanceHealthy", how)
		})
		m.settle()
		return
	}
	m.readySince = time.Time{}
	m.save(func(o *fleetv1.InstanceObserved) {
		if o.Ready {
			m.leftAnswers = time.Now().Add(reportTime)
		}
		o.Health, o.Reason, o.Ready = fleetv1.Unhealthy, "fails its health check: "+r.Reason, false
		m.noteLocked(fleetv1.EventWarning, "InstanceUnhealthy", "fails its health check: "+r.Reason)
	})
}

// settle makes the instance ready when it is healthy and published.
func (m *machine) settle() outcome {
	m.mu.Lock()
	o := m.rec.Instance.Observed
	due := m.healthy && m.published && !o.Ready && o.State == fleetv1.InstanceRunning && m.rec.Broken == ""
	m.mu.Unlock()
	if due {
		m.readySince = time.Now()
		m.save(func(o *fleetv1.InstanceObserved) {
			if m.rec.Broken == "" { // its device may have failed since
				o.Ready, o.Health, o.Reason = true, fleetv1.Healthy, ""
			}
		})
	}
	return outcome{}
}
