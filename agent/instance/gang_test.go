package instance

import (
	"slices"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// member is a member of a gang of two, on whose port nobody listens.
func member(rank int32, check *fleetv1.HealthCheck) *fleetv1.Instance {
	in := inst()
	in.Spec.Health, in.Spec.Gang = check, &fleetv1.Gang{Id: "g", Rank: rank, Size: 2}
	in.Spec.Api = &fleetv1.ModelAPI{Port: 1} // of no container here
	return in
}

func TestMembersOfAGangNeedNoPort(t *testing.T) {
	passes := &fleetv1.HealthCheck{CheckMethod: "EXEC", Command: []string{"/server", "-exit=0"}}
	fails := &fleetv1.HealthCheck{CheckMethod: "EXEC", Command: []string{"/server", "-exit=1"}, PeriodSeconds: 1}
	for name, c := range map[string]struct {
		in    *fleetv1.Instance
		ready bool
	}{
		"rank 1":                     {member(1, nil), true},
		"rank 0":                     {member(0, nil), false},
		"rank 1, whose check passes": {member(1, passes), true},
		"rank 1, whose check fails":  {member(1, fails), false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.apply(1, c.in)
				if o := w.after(10 * time.Second); o.GetReady() != c.ready || o.GetState() != fleetv1.InstanceRunning {
					t.Fatalf("observed %v", o)
				}
				if !c.ready {
					return
				}
				w.reboot() // it stays ready, and is no less watched
				if o := w.after(time.Second); !o.GetReady() {
					t.Fatalf("after a restart of the agent: %v", o)
				}
				if n := len(slices.DeleteFunc(w.reasons(), func(r string) bool { return r != "InstanceHealthy" })); n != 1 {
					t.Errorf("it was told %d times that it is healthy", n)
				}
				if err := w.rt.Exit("i-1", 1, "Exited"); err != nil {
					t.Fatal(err)
				}
				if o := w.after(0); o.GetReady() || o.GetState() != fleetv1.InstanceExited {
					t.Fatalf("after its end: %v", o)
				}
				if o := w.after(time.Minute); !o.GetReady() || o.GetAttempt() != 2 {
					t.Fatalf("in its next attempt: %v", o)
				}
			})
		})
	}
}

func TestMembersKnowTheirGang(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		in, want := member(1, nil), map[string]string{"A": "b", "DROVER_GANG_ID": "g", "DROVER_GANG_RANK": "1", "DROVER_GANG_SIZE": "2",
			"DROVER_GANG_ADDRESSES": "192.0.2.1,192.0.2.2"}
		in.Spec.Env = want
		w.apply(1, in)
		w.after(0)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.created) != 1 {
			t.Fatalf("created %v", w.created)
		}
		for k, v := range want {
			if got := w.created[0].Env[k]; got != v {
				t.Errorf("%s is %q, want %q", k, got, v)
			}
		}
	})
}
