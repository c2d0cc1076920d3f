package instance

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// restored is what a cluster says that was restored from a backup.
func (w *world) restored(confirmed uint64, instances ...*fleetv1.Instance) {
	w.t.Helper()
	err := w.g.Apply(&fleetv1.AssignmentSet{ClusterId: "c", RestoreEpoch: 1, Generation: 2, RemovalsConfirmed: confirmed, Instances: instances})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) kept() []string {
	var names []string
	for _, s := range w.g.Hold().GetStrangers() {
		names = append(names, s.GetInstanceId())
	}
	return names
}

func TestARestoreRemovesNothingBeforeItIsConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		newer := withDevices("a")
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(5, newer)
		w.after(time.Second)
		older := withDevices("a")
		older.Meta.Id, older.Meta.Name = "o", "iris-o"
		w.restored(0, older)
		w.restored(0, older)
		w.reboot()
		w.restored(0, older)
		if i := w.after(time.Hour); !i.GetReady() || i.GetAttempt() != 1 {
			t.Fatalf("the restore removed an instance: %v", i)
		}
		if got := w.rt.Containers(); !slices.Equal(got, []string{"i-1"}) {
			t.Errorf("containers %v: the device of a stranger has a second holder", got)
		}
		hold := w.g.Hold()
		if s := hold.GetStrangers(); hold.GetRemoving() || hold.GetRestoreEpoch() != 1 || len(s) != 1 || s[0].GetService() != "iris" ||
			s[0].GetStartTime() == nil || !slices.Equal(s[0].GetDeviceIds(), []string{"a"}) {
			t.Errorf("it keeps %v", hold)
		}
		if o := w.g.find("o").snapshot().GetObserved(); o.GetState() != fleetv1.InstanceAccepted || !strings.Contains(o.GetReason(), "--pending") {
			t.Errorf("the older instance is %v", o)
		}

		w.leave(map[string]string{"a": "process 7"})
		w.restored(1, older)
		w.after(40 * time.Second)
		if hold := w.g.Hold(); !hold.GetRemoving() || len(hold.GetStrangers()) != 1 || len(w.rt.Containers()) != 0 {
			t.Errorf("while the device isn't free: %v, containers %v", hold, w.rt.Containers())
		}
		w.leave(nil)
		w.after(10 * time.Second)
		if got := w.rt.Containers(); w.g.Hold() != nil || !slices.Equal(got, []string{"o-1"}) {
			t.Errorf("after the confirmation it keeps %v and runs %v", w.g.Hold(), got)
		}
	})
}

func TestHoldIsOfTheSet(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.apply(5, inst())
		w.after(time.Second)
		if w.g.Hold() != nil {
			t.Errorf("without a restore it keeps %v", w.g.Hold())
		}
		w.restored(1)
		if o := w.after(time.Hour); o != nil {
			t.Errorf("a restore that was confirmed while the node was away leaves %v", o)
		}
		older := &fleetv1.AssignmentSet{ClusterId: "c", Generation: 9}
		if err := w.g.Apply(older); !errors.Is(err, ErrRefused) {
			t.Errorf("a set from before the restore: %v", err)
		}
	})
}

// What a lost journal knew is kept as well, and nothing is started beside it.
func TestContainersAreKeptWithoutTheirRecords(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		if _, err := w.rt.Pull(t.Context(), runtime.PullRequest{Image: "iris:1", Digest: "sha256:1"}, func(runtime.Progress) {}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"i-3", "other-1"} {
			if _, err := w.rt.Create(t.Context(), runtime.Spec{ID: id, Digest: "sha256:1", Labels: map[string]string{runtime.LabelService: "s"}}); err != nil {
				t.Fatal(err)
			}
		}
		w.restored(0, inst())
		if o := w.after(time.Hour); o.GetState() != fleetv1.InstanceAccepted {
			t.Errorf("instance %v", o)
		}
		if got := w.rt.Containers(); len(got) != 2 || !slices.Equal(w.kept(), []string{"i", "other"}) {
			t.Errorf("containers %v, kept %v", got, w.kept())
		}
		w.restored(1, inst())
		if o := w.after(time.Minute); !o.GetReady() {
			t.Errorf("instance %v", o)
		}
		if got := w.rt.Containers(); !slices.Equal(got, []string{"i-1"}) || w.g.Hold() != nil {
			t.Errorf("containers %v, kept %v", got, w.kept())
		}
	})
}
