package instance

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent/journal"
	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/fake"
)

// world is one node in a bubble of synctest: time passes only when everybody waits.
type world struct {
	t       *testing.T
	dir     string
	rt      *fake.Runtime
	journal *journal.Journal
	g       *Manager
	end     func()
	crash   string // the fault point at which the next agent dies

	// For the next agent; nil means nothing special.
	fault       func(name string)
	wrap        func(runtime.Runtime) runtime.Runtime
	pullAllowed func() error
	tasks       Tasks
	bootID      string
	began       time.Time // of the host

	mu      sync.Mutex
	trace   []string
	devices []devices.Device
	created []runtime.Spec
	refuse  error // that the runtime answers to Create

	left        map[string]string // on devices that should be free
	silent      bool              // the drivers don't answer
	asked       int               // for devices to be free
	quarantined []string
}

// watched is the world's runtime with an eye on what is created.
type watched struct {
	*fake.Runtime
	w *world
}

func (r watched) Create(ctx context.Context, spec runtime.Spec) (runtime.Status, error) {
	r.w.mu.Lock()
	r.w.created = append(r.w.created, spec)
	err := r.w.refuse
	r.w.mu.Unlock()
	if err != nil {
		return runtime.Status{}, err
	}
	return r.Runtime.Create(ctx, spec)
}

func (w *world) setDevices(list ...devices.Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices = list
}

func (w *world) knownDevices() []devices.Device {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.devices)
}

// reclaim answers what is left on devices; it takes its time when the drivers are silent.
func (w *world) reclaim(ctx context.Context, ids []string) map[string]string {
	w.mu.Lock()
	w.asked++
	silent, left := w.silent, map[string]string{}
	for _, id := range ids {
		if why, found := w.left[id]; found {
			left[id] = why
		}
	}
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
		for _, id := range ids {
			left[id] = "the driver doesn't answer"
		}
	}
	return left
}

// quarantine notes a device, and how the instance "i" stood then.
func (w *world) quarantine(id, reason string) {
	state := w.g.find("i").snapshot().GetObserved().GetState()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quarantined = append(w.quarantined, state+": "+id+": "+reason)
}

// leave sets what is left on devices.
func (w *world) leave(left map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = left
}

func (w *world) askedFor() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func (w *world) inQuarantine() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.quarantined)
}

func (w *world) setSilent(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = silent
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), bootID: "boot-1", began: time.Now()}
	w.rt = fake.New(fake.Options{Trace: func(op, id string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.trace = append(w.trace, op)
	}})
	w.boot()
	t.Cleanup(func() {
		w.end()
		if err := w.rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// boot starts an agent on the world's directory and runtime.
func (w *world) boot() {
	w.t.Helper()
	var err error
	if w.journal, err = journal.Open(w.dir); err != nil {
		w.t.Fatal(err)
	}
	crash, fault := w.crash, w.fault
	var rt runtime.Runtime = watched{w.rt, w}
	if w.wrap != nil {
		rt = w.wrap(rt)
	}
	w.g = New(Config{
		Runtime: rt, PullAllowed: w.pullAllowed, Journal: w.journal, Logger: slog.New(slog.DiscardHandler), LogRoot: w.dir, Address: "192.0.2.1",
		PortMin: 30000, PortMax: 30200, Hooks: []Hook{MountHook([]string{w.dir}), DeviceHook(w.knownDevices)},
		Reclaim: w.reclaim, Quarantine: w.quarantine, ReclaimTimeout: time.Minute, Tasks: w.tasks,
		BootID: w.bootID, Uptime: func() time.Duration { return time.Since(w.began) },
		FaultPoint: func(name string) {
			if name == crash {
				select {} // as good as dead: this goroutine does nothing any more
			}
			if fault != nil {
				fault(name)
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	g, j := w.g, w.journal
	go func() {
		defer close(done)
		_ = g.Run(ctx) // answers the context's error
	}()
	w.end = func() {
		cancel()
		<-done
		if err := j.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) reboot() {
	w.end()
	w.boot()
}

func (w *world) apply(generation uint64, instances ...*fleetv1.Instance) {
	w.t.Helper()
	if err := w.g.Apply(&fleetv1.AssignmentSet{ClusterId: "c", Generation: generation, Instances: instances}); err != nil {
		w.t.Fatal(err)
	}
}

// after lets time pass, waits until everything is quiet, and answers the instance "i".
func (w *world) after(d time.Duration) *fleetv1.InstanceObserved {
	time.Sleep(d)
	synctest.Wait()
	if m := w.g.find("i"); m != nil {
		return m.snapshot().GetObserved()
	}
	return nil
}

func (w *world) reasons() []string {
	var got []string
	if m := w.g.find("i"); m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, ev := range m.rec.Events {
			got = append(got, ev.GetReason())
		}
	}
	return got
}

func inst(command ...string) *fleetv1.Instance {
	return &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: "i", Name: "iris-i"},
		Spec: &fleetv1.InstanceSpec{
			ServiceName: "iris", Image: "iris:1", ImageDigest: "sha256:1", Command: append([]string{"/server"}, command...),
			Health:             &fleetv1.HealthCheck{CheckMethod: "EXEC", Command: []string{"/server", "-exit=0"}},
			GracePeriodSeconds: 30, WithdrawSeconds: 3, Epoch: 9,
		},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
	}
}

func wish(in *fleetv1.Instance, change func(*fleetv1.InstanceDesired)) *fleetv1.Instance {
	in = proto.CloneOf(in)
	change(in.Desired)
	return in
}

func stopped(d *fleetv1.InstanceDesired) { d.State = fleetv1.DesiredStopped }

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func TestBecomesReadyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		begin := time.Now()
		w.apply(1, inst())
		o := w.after(0)
		if !o.GetReady() || o.GetState() != fleetv1.InstanceRunning || o.GetHealth() != fleetv1.Healthy || o.GetAttempt() != 1 ||
			o.GetIp() != "192.0.2.1" || o.GetPort() < 30000 || o.GetPid() == 0 {
			t.Fatalf("observed %v", o)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("a step waited: ready after %v", d)
		}
		want := []string{"ImagePullStarted", "ImagePulled", "InstanceStarting", "InstanceHealthy"}
		if got := w.reasons(); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		st, err := w.rt.Status(t.Context(), "i-1")
		if err != nil || st.HostPort != int(o.GetPort()) || st.Labels[runtime.LabelEpoch] != "9" {
			t.Errorf("container %+v, %v", st, err)
		}
	})
}

func TestRestartsWithBackOffThenFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst("-exit=3"))
		for restarts, delay := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second} {
			o := w.after(0)
			if o.GetState() != fleetv1.InstanceExited || int(o.GetRestarts()) != restarts || o.GetLastExit().GetCode() != 3 || o.GetRetryTime() == nil {
				t.Fatalf("after %d restarts: %v", restarts, o)
			}
			if o = w.after(delay - time.Millisecond); o.GetAttempt() != uint32(restarts+1) {
				t.Fatalf("attempt %d began early", o.GetAttempt())
			}
			if o = w.after(time.Millisecond); o.GetAttempt() != uint32(restarts+2) {
				t.Fatalf("attempt %d did not follow after %v", restarts+2, delay)
			}
		}
		o := w.after(time.Hour)
		if o.GetState() != fleetv1.InstanceFailed || o.GetAttempt() != 6 || !strings.Contains(o.GetReason(), "code 3") {
			t.Fatalf("in the end: %v", o)
		}
		if left := w.rt.Containers(); len(left) != 0 {
			t.Errorf("containers %v are left", left)
		}
		w.reboot()
		if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceFailed || len(w.rt.Containers()) != 0 {
			t.Errorf("a new agent did not leave it failed: %v", o)
		}
		w.apply(2, wish(inst(), stopped))
		if o := w.after(0); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("a failed instance is not reaped when it is stopped: %v", o)
		}
	})
}

func TestSteadyInstanceStartsItsBackOffAnew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		kill := func(id string) {
			t.Helper()
			if err := w.rt.Exit(id, 1, runtime.ExitOOM); err != nil {
				t.Fatal(err)
			}
		}
		w.after(0)
		kill("i-1")
		if o := w.after(0); o.GetReady() || o.GetLastExit().GetReason() != "OOMKilled" {
			t.Fatalf("after an exit: %v", o)
		}
		if o := w.after(time.Second); !o.GetReady() || o.GetRestarts() != 1 {
			t.Fatalf("after the restart: %v", o)
		}
		w.after(10 * time.Minute)
		kill("i-2")
		if o := w.after(0); o.GetRestarts() != 0 {
			t.Errorf("after ten healthy minutes: %v", o)
		}
	})
}

func TestStopDrainsThenSignals(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst("-ignore-term"))
		w.after(0)
		w.apply(2, wish(inst(), stopped))
		o := w.after(2 * time.Second)
		if o.GetState() != fleetv1.InstanceDraining || o.GetReady() || w.last() != "publish" {
			t.Fatalf("while it drains: %v, last operation %s", o, w.last())
		}
		if o = w.after(time.Second); o.GetState() != fleetv1.InstanceStopping || w.last() != "SIGTERM" {
			t.Fatalf("after the drain: %v, last operation %s", o, w.last())
		}
		w.after(29 * time.Second)
		if w.last() != "SIGTERM" {
			t.Fatalf("%s before the grace period ended", w.last())
		}
		if o = w.after(2 * time.Second); o.GetState() != fleetv1.InstanceReaped || o.GetLastExit().GetReason() != "Stopped" {
			t.Fatalf("in the end: %v", o)
		}
		w.mu.Lock()
		if tail := w.trace[len(w.trace)-3:]; !slices.Equal(tail, []string{"SIGTERM", "SIGKILL", "delete"}) {
			t.Errorf("operations %v", tail)
		}
		w.mu.Unlock()
		w.apply(3)
		if w.after(0) != nil || len(w.journal.Records()) != 0 {
			t.Error("a reaped instance that the set no longer names was not forgotten")
		}
	})
}

func (w *world) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trace[len(w.trace)-1]
}

func TestRestartCounter(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		w.apply(2, wish(inst(), func(d *fleetv1.InstanceDesired) { d.Restart = 2 }))
		// Its clients know the endpoint for 3 s, from when the scheduler has heard that it is withdrawn.
		if o := w.after(3 * time.Second); o.GetReady() || o.GetState() != fleetv1.InstanceDraining || w.last() != "publish" {
			t.Fatalf("while it drains: %v, last operation %s", o, w.last())
		}
		o := w.after(time.Second)
		if !o.GetReady() || o.GetAttempt() != 2 || o.GetRestarted() != 2 || o.GetRestarts() != 0 {
			t.Fatalf("after the restart: %v", o)
		}
		if o = w.after(time.Hour); o.GetAttempt() != 2 {
			t.Errorf("restarted again: %v", o)
		}
	})
}

func TestAdoption(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		before := w.after(0)
		w.reboot()
		after := w.after(0)
		if !after.GetReady() || after.GetPid() != before.GetPid() || after.GetPort() != before.GetPort() || after.GetAttempt() != 1 {
			t.Fatalf("before %v, after %v", before, after)
		}
		if got := w.reasons(); !slices.Contains(got, "InstanceAdopted") {
			t.Errorf("events %v", got)
		}
		w.end()
		if err := w.rt.Exit("i-1", 7, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		w.boot()
		o := w.after(0)
		if o.GetState() != fleetv1.InstanceExited || o.GetLastExit().GetCode() != 7 {
			t.Fatalf("an exit while no agent ran: %v", o)
		}
		if o = w.after(time.Second); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("then: %v", o)
		}
		w.end()
		if err := w.rt.Delete(t.Context(), "i-2"); err != nil { // as after a reboot of the host
			t.Fatal(err)
		}
		w.boot()
		if o = w.after(10 * time.Second); !o.GetReady() || o.GetAttempt() != 3 {
			t.Errorf("a container that vanished while no agent ran: %v", o)
		}
	})
}

func TestStrangers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.apply(1, inst())
		w.after(0)
		if _, err := w.rt.Create(ctx, runtime.Spec{ID: "stranger-1", Digest: "sha256:1"}); err != nil {
			t.Fatal(err)
		}
		w.reboot()
		w.after(time.Hour)
		if n := len(w.rt.Containers()); n != 2 {
			t.Fatalf("%d containers before a set came, want the stranger kept", n)
		}
		w.apply(1, inst())
		w.after(time.Minute)
		if got := w.rt.Containers(); !slices.Equal(got, []string{"i-1"}) {
			t.Errorf("containers %v after a set came", got)
		}
	})
}

func TestRefusedSets(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(5, inst())
		w.after(0)
		for name, set := range map[string]*fleetv1.AssignmentSet{
			"older": {ClusterId: "c", Generation: 4}, "foreign": {ClusterId: "d", Generation: 9}, "nameless": {Generation: 9},
			"path in ID": {ClusterId: "c", Generation: 6, Instances: []*fleetv1.Instance{{Meta: &fleetv1.Meta{Id: "../x"}}}},
		} {
			if err := w.g.Apply(set); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v, want ErrRefused", name, err)
			}
		}
	})
}

func TestUnknownIsNeverAbsent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		before := w.after(0)
		w.rt.SetUnavailable(true)
		if o := w.after(5 * time.Second); o.GetState() != fleetv1.InstanceRunning || o.GetAttempt() != 1 {
			t.Fatalf("while the runtime is away: %v", o)
		}
		w.reboot()
		if o := w.after(5 * time.Second); o.GetState() != fleetv1.InstanceRunning || o.GetAttempt() != 1 {
			t.Fatalf("an agent that starts while the runtime is away: %v", o)
		}
		w.rt.SetUnavailable(false)
		if o := w.after(20 * time.Second); !o.GetReady() || o.GetPid() != before.GetPid() {
			t.Fatalf("when it is back: %v", o)
		}
		w.rt.SetUnavailable(true)
		if err := w.rt.Exit("i-1", 9, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		w.rt.SetUnavailable(false)
		if o := w.after(0); o.GetState() != fleetv1.InstanceExited || o.GetLastExit().GetCode() != 9 {
			t.Errorf("an exit while it was away: %v", o)
		}
	})
}

func TestPullFailures(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.rt.FailPulls(errors.New("registry down"))
		w.apply(1, inst())
		if o := w.after(0); o.GetState() != fleetv1.InstanceAccepted || !strings.Contains(o.GetReason(), "registry down") {
			t.Fatalf("after a failed pull: %v", o)
		}
		if o := w.after(time.Second); !o.GetReady() || o.GetReason() != "" {
			t.Fatalf("after the next: %v", o)
		}
		other := inst()
		other.Meta.Id, other.Spec.Image = "j", "missing"
		w.apply(2, inst(), other)
		w.after(time.Second)
		if o := w.g.find("j").snapshot().GetObserved(); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "no such image") {
			t.Errorf("a missing image: %v", o)
		}
	})
}

func TestLoggerDied(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		if err := w.rt.KillLogger("i-1"); err != nil {
			t.Fatal(err)
		}
		if o := w.after(0); o.GetLastExit().GetReason() != "LoggerKilled" || o.GetReady() {
			t.Fatalf("observed %v", o)
		}
		if o := w.after(time.Second); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("then %v", o)
		}
	})
}

func TestUnhealthyLosesItsEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		in := inst()
		in.Spec.Health.Command = []string{"/server", "-exit=1"}
		w.apply(1, in)
		if o := w.after(29 * time.Second); o.GetHealth() != "" || o.GetReady() || o.GetState() != fleetv1.InstanceRunning {
			t.Fatalf("before three periods: %v", o)
		}
		if o := w.after(3 * time.Second); o.GetHealth() != fleetv1.Unhealthy || !strings.Contains(o.GetReason(), "code 1") {
			t.Errorf("after three periods: %v", o)
		}
	})
}

func TestMounts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		link := filepath.Join(w.dir, "link")
		if err := os.Symlink("/etc", link); err != nil {
			t.Fatal(err)
		}
		in := inst()
		in.Spec.Mounts = []*fleetv1.Mount{{Source: link, Path: "/data"}}
		w.apply(1, in)
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "/etc") {
			t.Errorf("a link out of the allowed directories: %v", o)
		}
		if got := w.reasons(); !slices.Contains(got, "MountFailed") {
			t.Errorf("events %v", got)
		}
	})
}

func TestTakenPortIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		l, err := net.Listen("tcp", ":30000")
		if err != nil {
			t.Skipf("port 30000 is taken on this machine: %v", err)
		}
		defer l.Close()
		w.g.ports.next = 30000
		w.apply(1, inst())
		if o := w.after(0); !o.GetReady() || o.GetPort() == 30000 {
			t.Errorf("observed %v", o)
		}
	})
}

func TestReportsUntilAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		first, err := w.g.Take()
		if err != nil || len(first) != 1 || len(first[0].GetEvents()) != 4 {
			t.Fatalf("reports %v, %v", first, err)
		}
		if more, err := w.g.Take(); err != nil || len(more) != 0 {
			t.Fatalf("reports without a change: %v, %v", more, err)
		}
		w.g.MarkAll()
		second, err := w.g.Take()
		if err != nil || len(second) != 1 || second[0].GetObserved().GetSequence() <= first[0].GetObserved().GetSequence() {
			t.Fatalf("reports after a reconnect: %v, %v", second, err)
		}
		if got := second[0].GetEvents()[0].GetSequence(); got != first[0].GetObserved().GetSequence() {
			t.Errorf("a repeated event has sequence %d, want that of the report which carried it first", got)
		}
		w.g.Ack(second)
		if got := w.reasons(); len(got) != 0 {
			t.Errorf("events %v after they were acknowledged", got)
		}
		w.reboot()
		w.after(0)
		third, err := w.g.Take()
		if err != nil || third[0].GetObserved().GetSequence() <= second[0].GetObserved().GetSequence() {
			t.Errorf("the sequence went back after a restart: %v, %v", third, err)
		}
	})
}

func TestStopHere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(1, inst())
		w.after(0)
		if _, err := w.g.StopHere("nobody"); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("stop of nobody: %v", err)
		}
		if _, err := w.g.StopHere("iris-i"); err != nil {
			t.Fatal(err)
		}
		w.apply(2, inst())
		w.reboot()
		if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("observed %v", o)
		}
	})
}
