package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// tale is what a judge is told, by chance, in order of time.
type tale struct {
	rand  *rand.Rand
	now   time.Time
	fault time.Time // the last serious one, silence isn't
	check time.Time // the last sample that showed nothing wrong
}

var codes = []int64{13, 31, 43, 48, 63, 64, 74, 79, 92, 94, 95, 119, 154, 4711}

// step tells one thing, and answers it in words.
func (x *tale) step(j *Judge, serious func(source, string) bool) string {
	x.now = x.now.Add(time.Duration(1+x.rand.Int64N(200)) * time.Second)
	r := x.rand
	faulty := func(bad bool) {
		if bad {
			x.fault = x.now
		}
	}
	switch r.IntN(8) {
	case 0, 1:
		s := devices.Signal{DeviceID: "g", Kind: devices.SignalXID, Code: codes[r.IntN(len(codes))], Time: x.now}
		faulty(serious(sourceXID, number(s.Code)))
		j.Signalled(s)
		return fmt.Sprint("xid ", s.Code)
	case 2:
		health := []string{fleetv1.Healthy, fleetv1.Healthy, fleetv1.Unresponsive, fleetv1.Unhealthy, fleetv1.Lost}[r.IntN(5)]
		faulty(health == fleetv1.Unhealthy || health == fleetv1.Lost)
		j.Discovered(devices.Device{ID: "g", Vendor: "nvidia", Health: health}, x.now)
		return health
	case 3:
		kind := []devices.SignalKind{devices.SignalReset, devices.SignalRecovered, devices.SignalECC, devices.SignalLost}[r.IntN(4)]
		faulty(kind == devices.SignalECC || kind == devices.SignalLost)
		j.Signalled(devices.Signal{DeviceID: "g", Kind: kind, Time: x.now})
		return string(kind)
	}
	s := devices.Sample{DeviceID: "g", Time: x.now}
	bad := r.IntN(4) == 0
	pending, action := bad && r.IntN(2) == 0, "none"
	if bad && !pending {
		action = "reset"
	}
	s.RemapPending, s.RecoveryAction = &pending, &action
	faulty(bad)
	if !bad {
		x.check = x.now
	}
	j.Checked(s)
	return fmt.Sprint("check, bad: ", bad)
}

// TestNeverHealthyWithoutACleanCheck: whatever is told, a device that had a serious fault is not healthy before a
// clean check at least a minute later; two judges that are told the same say the same; and in the end clean
// checks bring every device back.
func TestNeverHealthyWithoutACleanCheck(t *testing.T) {
	table := newTable(Rows())
	serious := func(s source, sign string) bool { return table.find(s, sign).Action.rank() >= Drain.rank() }
	for seed := range uint64(300) {
		x := &tale{rand: rand.New(rand.NewPCG(seed, 1)), now: start}
		j, twin := New(), New()
		var told []string
		twinTale := &tale{rand: rand.New(rand.NewPCG(seed, 1)), now: start}
		for range 120 {
			told = append(told, x.step(j, serious))
			twinTale.step(twin, serious)
			v := j.Verdict("g")
			if other := twin.Verdict("g"); v != other {
				t.Fatalf("seed %d: %+v and %+v after %q", seed, v, other, told)
			}
			if v.State == fleetv1.Healthy && !x.fault.IsZero() && x.check.Before(x.fault.Add(leastWait)) {
				t.Fatalf("seed %d: healthy at %s, fault %s, clean check %s: %q", seed, x.now, x.fault, x.check, told)
			}
			if (v.Action.rank() >= Drain.rank()) == (v.State == fleetv1.Healthy) {
				t.Fatalf("seed %d: %+v", seed, v)
			}
		}
		j.Discovered(devices.Device{ID: "g", Vendor: "nvidia", Health: fleetv1.Healthy}, x.now.Add(time.Second))
		for i := range 3 {
			no, none := false, noRecovery
			j.Checked(devices.Sample{DeviceID: "g", Time: x.now.Add(time.Duration(i+1) * mostWait), RemapPending: &no, RecoveryAction: &none})
		}
		if v := j.Verdict("g"); v.State != fleetv1.Healthy || v.Action != None {
			t.Fatalf("seed %d: not back: %+v after %q", seed, v, told)
		}
	}
}

// TestTable: every source answers for every sign or has a row for all others, and no sign is there twice.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rows() {
		if r.Meaning == "" || r.Action.rank() < 0 {
			t.Errorf("%+v", r)
		}
		for _, sign := range r.Signs {
			for _, one := range spread(sign) {
				if key := fmt.Sprint(r.Source, " ", one); seen[key] {
					t.Errorf("%s is there twice", key)
				} else {
					seen[key] = true
				}
			}
		}
	}
	for _, s := range []source{sourceXID, sourceRecovery, sourceHealth, sourceErrorCode} {
		if !seen[fmt.Sprint(s, " ", others)] {
			t.Errorf("%s has no row for other signs", s)
		}
	}
}
