package instance

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// bound is an instance that may not outlive the contact with the schedulers for longer than 60 s.
func bound() *fleetv1.Instance {
	in := inst()
	in.Spec.OnDisconnect = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(60), Keep: proto.Bool(false)}
	return in
}

// connect has a scheduler assign instances.
func (w *world) connect(generation uint64, instances ...*fleetv1.Instance) {
	w.g.Connected(true)
	w.apply(generation, instances...)
}

func TestIsStoppedWhenItsNodeIsCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, bound())
		if o := w.after(time.Hour); !o.GetReady() {
			t.Fatalf("with a scheduler it is %v", o)
		}
		w.g.Connected(false)
		if o := w.after(59 * time.Second); !o.GetReady() {
			t.Fatalf("before the time it is %v", o)
		}
		// It ends at once on SIGTERM; the endpoint isn't served on, since nobody is told of it.
		if o := w.after(2 * time.Second); o.GetState() != fleetv1.InstanceReaped || len(w.rt.Containers()) != 0 {
			t.Fatalf("after the time it is %v, containers %v", o, w.rt.Containers())
		}
		w.connect(1, bound())
		if o := w.after(time.Hour); o.GetState() != fleetv1.InstanceReaped || !slices.Contains(w.reasons(), "InstanceCutOff") {
			t.Errorf("with a scheduler again it is %v, events %v", o, w.reasons())
		}
	})
}

// What doesn't end by itself has ended within its grace and the 5 s after SIGKILL, at the latest 1 s after its time.
func TestTheTimeOfACutOffIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		in := bound()
		in.Spec.Command = []string{"/server", "-ignore-term"}
		in.Spec.Health = nil
		w.connect(1, in)
		w.after(time.Minute)
		w.g.Connected(false)
		w.after(60*time.Second + 29*time.Second)
		if n := len(w.rt.Containers()); n != 1 {
			t.Fatalf("it ended before its grace: %d containers", n)
		}
		if w.after(time.Second + checkEvery + 5*time.Second); len(w.rt.Containers()) != 0 {
			t.Errorf("containers %v", w.rt.Containers())
		}
	})
}

func TestOthersOutliveACutOff(t *testing.T) {
	for name, change := range map[string]func(*fleetv1.InstanceSpec){
		"no policy":    func(s *fleetv1.InstanceSpec) { s.OnDisconnect = nil },
		"the default":  func(s *fleetv1.InstanceSpec) { s.OnDisconnect.Keep = nil },
		"kept":         func(s *fleetv1.InstanceSpec) { s.OnDisconnect.Keep = proto.Bool(true) },
		"a short trip": nil,
	} {
		bubble(t, func(t *testing.T, w *world) {
			in := bound()
			if change != nil {
				change(in.Spec)
			}
			w.connect(1, in)
			w.after(time.Second)
			for range 3 {
				w.g.Connected(false)
				if change != nil {
					w.after(24 * time.Hour)
				}
				w.after(50 * time.Second)
				w.g.Connected(true)
			}
			if o := w.after(time.Hour); !o.GetReady() || o.GetAttempt() != 1 {
				t.Errorf("%s: it is %v", name, o)
			}
		})
	}
}

// The time goes on while no agent runs, and the next one, if it reaches nobody, stops at once what is due.
func TestACutOffOutlivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, bound())
		w.after(time.Minute)
		w.g.Connected(false)
		w.after(20 * time.Second)
		w.reboot() // the agent alone
		if o := w.after(39 * time.Second); !o.GetReady() || o.GetAttempt() != 1 {
			t.Fatalf("before the time it is %v", o)
		}
		if o := w.after(2 * time.Second); o.GetState() != fleetv1.InstanceReaped {
			t.Fatalf("after the time it is %v", o)
		}
	})
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, bound())
		w.after(time.Minute)
		w.end() // without a word, and for an hour
		time.Sleep(time.Hour)
		w.boot()
		if o := w.after(connectGrace - time.Second); !o.GetReady() {
			t.Fatalf("before a scheduler could be reached it is %v", o)
		}
		if o := w.after(3 * time.Second); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("it is %v", o)
		}
	})
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, bound())
		w.after(time.Minute)
		w.end()
		time.Sleep(time.Hour)
		w.boot()
		w.after(time.Second)
		w.connect(1, bound())
		if o := w.after(time.Hour); !o.GetReady() || o.GetAttempt() != 1 {
			t.Errorf("a scheduler was reached in time, and it is %v", o)
		}
	})
}

// hostReboot ends every container with the agent, and changes the boot ID.
func (w *world) hostReboot() {
	w.end()
	for _, id := range w.rt.Containers() {
		if err := w.rt.Delete(w.t.Context(), id); err != nil {
			w.t.Fatal(err)
		}
	}
	w.bootID, w.began = "boot-2", time.Now()
	w.boot()
}

func TestAfterAReboot(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, bound())
		w.after(time.Minute)
		w.hostReboot()
		if w.g.find("i").snapshot().GetObserved().GetReady() {
			t.Error("it is ready, and nothing runs")
		}
		if o := w.after(time.Hour); o.GetState() == fleetv1.InstanceReaped || len(w.rt.Containers()) != 0 {
			t.Errorf("without a scheduler it is %v, containers %v", o, w.rt.Containers())
		}
		w.reboot() // another agent doesn't know more
		if w.after(time.Hour); len(w.rt.Containers()) != 0 {
			t.Errorf("containers %v", w.rt.Containers())
		}
		w.connect(1, bound())
		if o := w.after(time.Minute); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("with a scheduler it is %v", o)
		}
	})
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, inst())
		w.after(time.Minute)
		w.hostReboot()
		if o := w.after(time.Minute); !o.GetReady() || o.GetAttempt() != 2 {
			t.Errorf("what is kept is started again without a scheduler: %v", o)
		}
	})
}

// An agent's first report doesn't claim what the agent before it knew.
func TestReportsWhatIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.connect(1, inst())
		w.after(time.Minute)
		w.rt.SetUnavailable(true)
		w.reboot()
		w.g.MarkAll()
		if reports, err := w.g.Take(); err != nil || len(reports) != 0 {
			t.Errorf("reported %v, %v before the runtime was asked", reports, err)
		}
		w.after(time.Second)
		if reports, err := w.g.Take(); err != nil || len(reports) != 0 {
			t.Errorf("reported %v, %v while the runtime is away", reports, err)
		}
		w.rt.SetUnavailable(false)
		w.after(5 * time.Second)
		if reports, err := w.g.Take(); err != nil || len(reports) != 1 || !reports[0].GetObserved().GetReady() {
			t.Errorf("then reported %v, %v", reports, err)
		}
	})
}
