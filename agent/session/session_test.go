package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a stream whose sent messages are kept.
type wire struct {
	grpc.BidiStreamingClient[fleetv1.SessionRequest, fleetv1.SessionResponse]
	mu   sync.Mutex
	sent []*fleetv1.SessionRequest
	fail func(*fleetv1.SessionRequest) error
}

func (w *wire) Send(m *fleetv1.SessionRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, m)
	if w.fail != nil {
		return w.fail(m)
	}
	return nil
}

// kinds answers what was sent, in order, but for heartbeats.
func (w *wire) kinds() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kinds []string
	for _, m := range w.sent {
		switch {
		case m.GetFacts() != nil:
			kinds = append(kinds, "facts "+m.GetFacts().GetHostname())
		case m.GetReport() != nil:
			for _, in := range m.GetReport().GetInstances() {
				kinds = append(kinds, "report "+in.GetInstanceId())
			}
			for _, ev := range m.GetReport().GetNodeEvents() {
				kinds = append(kinds, "event "+ev.GetReason())
			}
		}
	}
	return kinds
}

// node is what a session works for, without instances of its own.
type node struct {
	Instances
	changed chan struct{}
	facts   chan struct{}

	mu      sync.Mutex
	host    string
	due     []*fleetv1.InstanceReport
	taking  func() // during Take
	samples []*fleetv1.DeviceSample
}

func (n *node) Changed() <-chan struct{}       { return n.changed }
func (n *node) Pulls() []*fleetv1.PullProgress { return nil }
func (n *node) Ack([]*fleetv1.InstanceReport)  {}
func (n *node) report(id string)               { n.due = append(n.due, &fleetv1.InstanceReport{InstanceId: id}) }
func (n *node) Facts() *fleetv1.NodeFacts      { return &fleetv1.NodeFacts{Hostname: n.host} }

func (n *node) Samples() []*fleetv1.DeviceSample {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.samples
}

func (n *node) Take() ([]*fleetv1.InstanceReport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.taking != nil {
		n.taking()
	}
	due := n.due
	n.due = nil
	return due, nil
}

// sending runs a session's sender in a bubble.
func sending(t *testing.T, f func(n *node, w *wire, s *session), want error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &node{changed: make(chan struct{}, 1), facts: make(chan struct{}, 1), host: "before"}
		w := &wire{}
		c := New(Config{
			Instances: n, Header: func() journal.Header { return journal.Header{} }, Facts: n.Facts, Samples: n.Samples, FactsChanged: n.facts,
		})
		s := &session{c: c, stream: w, acks: make(chan uint64, 1), tell: make(chan struct{}, 1), paces: make(chan *fleetv1.Pace, 1), sampled: map[string]time.Time{}}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.send(ctx, &fleetv1.Pace{Number: 1, HeartbeatMillis: 1000}) }()
		f(n, w, s)
		synctest.Wait()
		cancel(context.Canceled)
		if err := <-done; !errors.Is(err, want) {
			t.Errorf("ended with %v, want %v", err, want)
		}
	})
}

// Facts that changed before an instance did go before its report, even when they change during Take.
func TestFactsGoFirst(t *testing.T) {
	for range 20 { // a select is free to choose
		sending(t, func(n *node, w *wire, s *session) {
			n.mu.Lock()
			n.host = "after"
			n.report("i")
			n.facts <- struct{}{}
			n.changed <- struct{}{}
			n.mu.Unlock()
			synctest.Wait()
			if got, want := w.kinds(), []string{"facts after", "report i"}; !slices.Equal(got, want) {
				t.Errorf("sent %v, want %v", got, want)
			}
			s.acks <- 1
			synctest.Wait()
			n.mu.Lock()
			n.taking = func() {
				n.taking, n.host = nil, "later"
				n.report("j")
				n.facts <- struct{}{}
			}
			n.mu.Unlock()
			n.changed <- struct{}{}
			synctest.Wait()
			if got, want := w.kinds()[2:], []string{"facts later", "report j"}; !slices.Equal(got, want) {
				t.Errorf("sent %v, want %v", got, want)
			}
		}, context.Canceled)
	}
}

func TestFactsGoFirstOfEvents(t *testing.T) {
	for range 20 {
		sending(t, func(n *node, w *wire, s *session) {
			n.facts <- struct{}{}
			s.c.NodeEvent(fleetv1.EventAbnormal, "DeviceFailed", "m")
			synctest.Wait()
			if got, want := w.kinds(), []string{"facts before", "event DeviceFailed"}; !slices.Equal(got, want) {
				t.Errorf("sent %v, want %v", got, want)
			}
		}, context.Canceled)
	}
}

// While a report isn't acknowledged, facts go on their own and reports wait.
func TestFactsDoNotWaitForAcks(t *testing.T) {
	sending(t, func(n *node, w *wire, s *session) {
		n.mu.Lock()
		n.report("i")
		n.mu.Unlock()
		n.changed <- struct{}{}
		synctest.Wait()
		n.mu.Lock()
		n.report("j")
		n.mu.Unlock()
		n.changed <- struct{}{}
		n.facts <- struct{}{}
		synctest.Wait()
		if got, want := w.kinds(), []string{"report i", "facts before"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
		s.acks <- 1
		synctest.Wait()
		if got, want := w.kinds(), []string{"report i", "facts before", "report j"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
	}, context.Canceled)
}

// A report whose facts can't be sent isn't sent either.
func TestFactsFail(t *testing.T) {
	broken := errors.New("the stream is broken")
	sending(t, func(n *node, w *wire, _ *session) {
		w.mu.Lock()
		w.fail = func(m *fleetv1.SessionRequest) error {
			if m.GetFacts() != nil {
				return broken
			}
			return nil
		}
		w.mu.Unlock()
		n.mu.Lock()
		n.report("i")
		n.facts <- struct{}{}
		n.changed <- struct{}{}
		n.mu.Unlock()
		synctest.Wait()
		if got := w.kinds(); slices.Contains(got, "report i") {
			t.Errorf("sent %v", got)
		}
	}, broken)
}

func sample(id string, second int64) *fleetv1.DeviceSample {
	return &fleetv1.DeviceSample{DeviceId: id, Time: timestamppb.New(time.Unix(second, 5))}
}

// Each sample is sent once in a session, and again in the next.
func TestNewSamples(t *testing.T) {
	n := &node{}
	begin := func() *session {
		return &session{c: New(Config{Samples: n.Samples}), sampled: map[string]time.Time{}}
	}
	s := begin()
	for _, step := range []struct {
		have []*fleetv1.DeviceSample
		want []string
	}{
		{nil, nil},
		{[]*fleetv1.DeviceSample{sample("a", 1), sample("b", 1)}, []string{"a 1", "b 1"}},
		{[]*fleetv1.DeviceSample{sample("a", 1), sample("b", 1)}, nil},
		{[]*fleetv1.DeviceSample{sample("a", 2), sample("b", 1)}, []string{"a 2"}},
		{[]*fleetv1.DeviceSample{sample("b", 1)}, nil},                                    // a can't be measured now
		{[]*fleetv1.DeviceSample{sample("a", 1), sample("c", 3)}, []string{"a 1", "c 3"}}, // another clock is another sample
	} {
		n.samples = step.have
		if got := told(s.newSamples()); !slices.Equal(got, step.want) {
			t.Errorf("of %v it sends %v, want %v", told(step.have), got, step.want)
		}
	}
	if got := told(begin().newSamples()); !slices.Equal(got, []string{"a 1", "c 3"}) {
		t.Errorf("the next session sends %v", got)
	}
}

func told(all []*fleetv1.DeviceSample) []string {
	var out []string
	for _, s := range all {
		out = append(out, s.GetDeviceId()+" "+string(rune('0'+s.GetTime().GetSeconds())))
	}
	return out
}

// Heartbeats carry what is new.
func TestHeartbeatCarriesSamples(t *testing.T) {
	sending(t, func(n *node, w *wire, _ *session) {
		n.mu.Lock()
		n.samples = []*fleetv1.DeviceSample{sample("a", 1)}
		n.mu.Unlock()
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.sent) != 2 || len(w.sent[0].GetHeartbeat().GetDeviceSamples()) != 1 || len(w.sent[1].GetHeartbeat().GetDeviceSamples()) != 0 {
			t.Errorf("sent %v", w.sent)
		}
	}, context.Canceled)
}
