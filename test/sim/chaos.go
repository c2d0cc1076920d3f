package sim

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Chaos is what befalls schedulers and hosts at random, besides the trace.
type Chaos struct {
	// Depose is the chance of each entry to be the last of its leader. Its proposer hears nothing: every other
	// one was not committed. What the leader proposes after it is refused, and another leader takes over, every
	// other time after a restart from its snapshot.
	Depose float64
	// Skew is how far the clock of a leader may be off, either way.
	Skew time.Duration
	// Wipe is the chance of a crashed host to come back without its journal.
	Wipe float64
}

var (
	errDeposed = errors.New("this scheduler does not lead any more")
	errLost    = errors.New("the outcome is unknown")
)

// chaos is the state of what befalls.
type chaos struct {
	Chaos
	*rand.Rand
	deposed bool          // the leader has lost its leadership and nobody has followed it yet
	offset  time.Duration // how far the leader's clock is ahead
}

func newChaos(c Chaos, seed uint64) *chaos {
	return &chaos{Chaos: c, Rand: rand.New(rand.NewPCG(seed, 3))}
}

// befalls is true with the probability p; without a draw for 0, so that a run without chaos is what it was.
func (c *chaos) befalls(p float64) bool { return p > 0 && c.Float64() < p }

// clock is the leader's.
func (w *world) clock() time.Time { return w.now.Add(w.chaos.offset) }

// deposes says whether the leader can't have an entry committed, or doesn't hear whether it was.
func (w *world) deposes() (committed bool, err error) {
	switch {
	case w.chaos.deposed:
		return false, errDeposed
	case w.term != nil && !w.over && w.chaos.befalls(w.chaos.Depose):
		w.chaos.deposed = true
		w.meter.r.Deposed++
		return w.chaos.IntN(2) == 0, errLost
	}
	return true, nil
}

// elect has another leader follow one that was deposed.
func (w *world) elect() {
	for w.chaos.deposed {
		w.chaos.deposed = false
		if w.chaos.Skew > 0 {
			w.chaos.offset = time.Duration(w.chaos.Int64N(int64(2*w.chaos.Skew))) - w.chaos.Skew
		}
		w.lead(w.chaos.IntN(2) == 0)
	}
}

// insist commits a command of an operator, who sends it again under its request ID until he knows the outcome.
func (w *world) insist(cmd *fleetv1.Command) (state.Result, error) {
	if w.chaos.Depose == 0 {
		return w.commit(cmd)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		return state.Result{}, err
	}
	digest := sha256.Sum256(body)
	cmd.RequestId, cmd.RequestDigest = w.newID(), digest[:]
	result, err := w.commit(cmd)
	for errors.Is(err, errLost) || errors.Is(err, errDeposed) {
		w.elect()
		cmd.Time = timestamppb.New(w.clock())
		result, err = w.apply(cmd)
	}
	if n := w.ledger.effects[cmd.GetRequestId()]; err == nil && len(result.Rejections) == 0 && n != 1 {
		w.fault("a request took effect %d times: %s", n, describe(cmd))
	}
	delete(w.ledger.effects, cmd.GetRequestId())
	return result, err
}
