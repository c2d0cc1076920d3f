package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// A dead logger's container is deleted when the runtime can do that; its endpoint is gone at once.
func TestLoggerDiedWhileTheRuntimeIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		if err := w.rt.KillLogger("i-1"); err != nil {
			t.Fatal(err)
		}
		w.rt.SetUnavailable(true)
		if o := w.after(0); o.GetReady() || o.GetLastExit().GetReason() != "LoggerKilled" {
			t.Fatalf("at once: %v", o)
		}
		w.after(time.Minute)
		w.rt.SetUnavailable(false)
		if o := w.after(5 * time.Second); !o.GetReady() || o.GetAttempt() != 2 || !slices.Equal(w.rt.Containers(), []string{"i-2"}) {
			t.Errorf("when the runtime is back: %v, containers %v", o, w.rt.Containers())
		}
	})
}

func TestLoggerDiedBeforeTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.fault = func(name string) {
			if name == "created" && w.rt.Containers()[0] == "i-1" {
				if err := w.rt.KillLogger("i-1"); err != nil {
					t.Error(err)
				}
				for m := w.g.find("i"); ; time.Sleep(time.Millisecond) { // until the event is in the mailbox
					m.mu.Lock()
					died := m.loggerDied
					m.mu.Unlock()
					if died {
						return
					}
				}
			}
		}
		w.reboot()
		w.apply(1, inst())
		if o := w.after(100 * time.Millisecond); o.GetState() != fleetv1.InstanceExited || o.GetLastExit().GetReason() != "LoggerKilled" {
			t.Fatalf("observed %v", o)
		}
		if o := w.after(time.Second); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("then %v", o)
		}
	})
}

// The probe of a container that has died may hang; the endpoint does not wait for it.
func TestExitIsNotHeldUpByAProbe(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		hang := make(chan struct{})
		probing := make(chan struct{}, 1)
		w.wrap = func(rt runtime.Runtime) runtime.Runtime {
			return probed{rt, func(ctx context.Context) {
				select {
				case <-hang:
				default:
					return
				}
				probing <- struct{}{}
				time.Sleep(30 * time.Second) // whatever its context says
			}}
		}
		w.reboot()
		w.apply(1, inst())
		if o := w.after(0); !o.GetReady() {
			t.Fatalf("observed %v", o)
		}
		close(hang)
		<-probing
		if err := w.rt.Exit("i-1", 1, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		if o := w.after(0); o.GetReady() || o.GetState() != fleetv1.InstanceExited {
			t.Errorf("while the probe hangs: %v", o)
		}
	})
}

type probed struct {
	runtime.Runtime
	before func(ctx context.Context)
}

func (p probed) Exec(ctx context.Context, id string, req runtime.ExecRequest) (uint32, error) {
	p.before(ctx)
	return p.Runtime.Exec(ctx, id, req)
}

// Clients may use an endpoint for withdraw_seconds after they got it, also when it was lost just before the stop.
func TestUnhealthyInstanceStillServesWhileKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		in := inst()
		in.Spec.Health.Command = []string{"/server", "-exit=0"}
		in.Spec.Health.PeriodSeconds, in.Spec.Health.FailureThreshold = 1, 1
		sick := make(chan struct{})
		w.wrap = func(rt runtime.Runtime) runtime.Runtime {
			return probed{sickly{rt, sick}, func(context.Context) {}}
		}
		w.reboot()
		w.apply(1, in)
		w.after(0)
		close(sick)
		if o := w.after(time.Second); o.GetReady() || o.GetHealth() != fleetv1.Unhealthy {
			t.Fatalf("observed %v", o)
		}
		w.apply(2, wish(in, stopped))
		if o := w.after(3 * time.Second); o.GetState() != fleetv1.InstanceDraining || w.last() == "SIGTERM" {
			t.Fatalf("just unhealthy, then stopped: %v, last operation %s", o, w.last())
		}
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("in the end: %v", o)
		}
	})
}

type sickly struct {
	runtime.Runtime
	sick chan struct{}
}

func (s sickly) Exec(ctx context.Context, id string, req runtime.ExecRequest) (uint32, error) {
	select {
	case <-s.sick:
		return 1, nil
	default:
		return s.Runtime.Exec(ctx, id, req)
	}
}

func TestFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var full atomic.Bool
		full.Store(true)
		w.pullAllowed = func() error {
			if full.Load() {
				return errors.New("the disk is full")
			}
			return nil
		}
		w.reboot()
		w.apply(1, inst())
		if o := w.after(time.Minute); o.GetReady() || !strings.Contains(o.GetReason(), "the disk is full") {
			t.Fatalf("while it is full: %v", o)
		}
		if got := w.reasons(); !slices.Equal(got, []string{"ImagePullFailed"}) {
			t.Errorf("events %v, want the trouble told once", got)
		}
		full.Store(false)
		if o := w.after(time.Minute); !o.GetReady() {
			t.Fatalf("when there is room: %v", o)
		}
		full.Store(true)
		if err := w.rt.Exit("i-1", 1, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		if o := w.after(2 * time.Second); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("a restart, whose image is present, on a full disk: %v", o)
		}
	})
}

func TestPullTroubleIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		down, slow := errors.New("registry down"), errors.New("registry slow")
		w.rt.FailPulls(down, down, down, slow)
		w.apply(1, inst())
		if o := w.after(time.Minute); !o.GetReady() {
			t.Fatalf("observed %v", o)
		}
		want := []string{"ImagePullFailed", "ImagePullFailed", "ImagePullStarted", "ImagePulled", "InstanceStarting", "InstanceHealthy"}
		if got := w.reasons(); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

func TestStalledPullBeginsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var pulls atomic.Int32
		w.wrap = func(rt runtime.Runtime) runtime.Runtime {
			return puller{rt, func(ctx context.Context, progress func(runtime.Progress)) error {
				if pulls.Add(1) > 1 {
					return nil
				}
				for done := range int64(3) { // slow, but it moves
					progress(runtime.Progress{DoneBytes: done + 1, TotalBytes: 9})
					time.Sleep(pullStall - time.Second)
				}
				progress(runtime.Progress{DoneBytes: 3, TotalBytes: 9})
				<-ctx.Done()
				return ctx.Err()
			}}
		}
		w.reboot()
		w.apply(1, inst())
		if o := w.after(3 * (pullStall - time.Second)); o.GetState() != fleetv1.InstancePulling || pulls.Load() != 1 {
			t.Fatalf("a pull that moves: %v, %d pulls", o, pulls.Load())
		}
		if o := w.after(pullStall); !o.GetReady() || pulls.Load() != 2 {
			t.Errorf("a pull that stalls: %v, %d pulls", o, pulls.Load())
		}
		if got := w.reasons(); !slices.Contains(got, "ImagePullFailed") || !slices.Contains(got, "ImagePullProgress") {
			t.Errorf("events %v", got)
		}
	})
}

type puller struct {
	runtime.Runtime
	before func(ctx context.Context, progress func(runtime.Progress)) error
}

func (p puller) Pull(ctx context.Context, req runtime.PullRequest, progress func(runtime.Progress)) (runtime.Image, error) {
	if err := p.before(ctx, progress); err != nil {
		return runtime.Image{}, err
	}
	return p.Runtime.Pull(ctx, req, progress)
}

// An instance that a newer set no longer names ends; its logs are kept from then on.
func TestAbsentIsStoppedAndForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		logs := filepath.Join(w.dir, "i")
		if err := os.MkdirAll(logs, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(logs, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		w.apply(2)
		if o := w.after(2 * time.Second); o.GetState() != fleetv1.InstanceDraining || o.GetReady() {
			t.Fatalf("absent from a newer set: %v", o)
		}
		if o := w.after(time.Minute); o != nil || len(w.rt.Containers()) != 0 || len(w.journal.Records()) != 0 {
			t.Errorf("in the end: %v, containers %v, records %v", o, w.rt.Containers(), w.journal.Records())
		}
		info, err := os.Stat(logs)
		if err != nil || time.Since(info.ModTime()) > time.Hour {
			t.Errorf("its logs count as old: %v, %v", info.ModTime(), err)
		}
		w.reboot()
		if o := w.after(time.Minute); o != nil {
			t.Errorf("a new agent knows it again: %v", o)
		}
	})
}

// A restart that is asked for does not wait for the back-off, and takes no try away.
func TestRestartEndsTheBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		in := inst("-exit=1")
		w.apply(1, in)
		w.after(7 * time.Second) // attempts end after 0, 1, 3 and 7 s
		w.apply(2, wish(in, func(d *fleetv1.InstanceDesired) { d.Restart = 1 }))
		o := w.after(0)
		if o.GetAttempt() != 5 || o.GetRestarts() != 3 || o.GetRestarted() != 1 {
			t.Fatalf("observed %v", o)
		}
		w.apply(3, wish(in, stopped))
		if o = w.after(0); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("a stop while it backs off: %v", o)
		}
	})
}

func TestRestartDelay(t *testing.T) {
	for restarts, want := range map[int32]time.Duration{-1: time.Second, 0: time.Second, 1: 2 * time.Second, 8: 256 * time.Second, 9: 5 * time.Minute, 1 << 30: 5 * time.Minute} {
		if got := restartDelay(restarts); got != want {
			t.Errorf("after %d restarts: %v, want %v", restarts, got, want)
		}
	}
}

func TestLostJournal(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		before := w.after(0)
		w.end()
		w.dir = t.TempDir()
		w.boot()
		again := inst()
		again.Observed = &fleetv1.InstanceObserved{Attempt: before.GetAttempt(), Sequence: 7}
		w.apply(2, again)
		w.after(time.Minute)
		reports, err := w.g.Take()
		if err != nil || len(reports) != 1 {
			t.Fatalf("reports %v, %v", reports, err)
		}
		if now := reports[0].GetObserved(); !now.GetReady() || now.GetAttempt() != before.GetAttempt()+1 || now.GetSequence() <= 7 {
			t.Errorf("with a new journal %v; want the next attempt after %v, with a sequence above 7", now, before)
		}
		if got := w.rt.Containers(); !slices.Equal(got, []string{"i-2"}) {
			t.Errorf("containers %v, want the new attempt's alone", got)
		}
	})
}
