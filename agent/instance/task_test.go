package instance

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// taskBook notes what the manager of tasks is told.
type taskBook struct {
	mu    sync.Mutex
	told  []string
	most  time.Duration
	lefts []func()
}

func (b *taskBook) note(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); len(b.told) == 0 || b.told[len(b.told)-1] != line {
		b.told = append(b.told, line)
	}
}

func (b *taskBook) Serve(inst *fleetv1.Instance, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := inst.GetObserved(); address != "" || o.GetState() == fleetv1.InstanceExited {
		b.note("%s %d %t", o.GetState(), o.GetAttempt(), address != "")
	}
}

func (b *taskBook) Leave(_ *fleetv1.Instance, left func()) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note("leave")
	b.lefts = append(b.lefts, left)
	return b.most
}

func (b *taskBook) Drop(string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note("drop")
}

// left says that the task that was last to leave has.
func (b *taskBook) left() {
	b.mu.Lock()
	left := b.lefts[len(b.lefts)-1]
	b.mu.Unlock()
	left()
}

func (b *taskBook) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told)
}

func jobInst() *fleetv1.Instance {
	in := inst()
	in.Spec.JobId, in.Spec.WithdrawSeconds = "j", 0
	return in
}

// withTasks has the world's next agent tell the book.
func withTasks(w *world, b *taskBook) {
	w.end()
	w.tasks = b
	w.boot()
}

func TestTaskIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := &taskBook{most: time.Minute}
		withTasks(w, b)
		w.apply(1, jobInst())
		w.after(0)
		if err := w.rt.Exit("i-1", 1, runtime.ExitOOM); err != nil {
			t.Fatal(err)
		}
		w.after(time.Second)
		w.apply(2, wish(jobInst(), stopped))
		if o := w.after(50 * time.Second); o.GetState() != fleetv1.InstanceDraining || o.GetPid() == 0 {
			t.Fatalf("the container didn't wait for its task: %v", o)
		}
		b.left()
		if o := w.after(0); o.GetState() != fleetv1.InstanceStopping && o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("its task has left: %v", o)
		}
		w.after(time.Minute)
		want := []string{"Running 1 true", "Exited 1 false", "Running 2 true", "leave", "Draining 2 true", "drop"}
		if got := b.lines(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// TestTaskIsWaitedForInTime: a task that doesn't leave holds its container no longer than it has said.
func TestTaskIsWaitedForInTime(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := &taskBook{most: time.Minute}
		withTasks(w, b)
		w.apply(1, jobInst())
		w.after(0)
		w.apply(2, wish(jobInst(), stopped))
		if o := w.after(time.Minute - time.Millisecond); o.GetState() != fleetv1.InstanceDraining {
			t.Fatalf("before its time: %v", o)
		}
		if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("after its time: %v", o)
		}
		b.left() // late: nobody waits
		w.after(time.Second)
	})
}

// TestTaskAfterRestart: a restart waits for the task as a stop does, and the next attempt is served again.
func TestTaskAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := &taskBook{most: time.Minute}
		withTasks(w, b)
		w.apply(1, jobInst())
		w.after(0)
		w.apply(2, wish(jobInst(), func(d *fleetv1.InstanceDesired) { d.Restart = 1 }))
		w.after(time.Second)
		b.left()
		w.after(time.Minute)
		want := []string{"Running 1 true", "leave", "Draining 1 true", "Running 2 true"}
		if got := b.lines(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// TestTasksAreOfJobs: no other instance, and no other member of a gang, is given items.
func TestTasksAreOfJobs(t *testing.T) {
	for name, change := range map[string]func(*fleetv1.Instance){
		"a service": func(in *fleetv1.Instance) { in.Spec.JobId = "" },
		"rank 1":    func(in *fleetv1.Instance) { in.Spec.Gang = &fleetv1.Gang{Rank: 1, Size: 2} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				b := &taskBook{most: time.Hour}
				withTasks(w, b)
				in := jobInst()
				change(in)
				w.apply(1, in)
				w.after(0)
				w.apply(2, wish(in, stopped))
				if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceReaped || len(b.lines()) > 0 {
					t.Errorf("%v, told %q", o, b.lines())
				}
			})
		})
	}
}
