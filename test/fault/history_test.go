package fault

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// load is what clients do to registers, and what they saw of it: quotas of projects that don't exist, each of
// which holds one number. Every client talks to one scheduler, and sends a write again under its request ID
// until it is acknowledged, so a write lasts from its first sending to its acknowledgement.
type load struct {
	t       *testing.T
	clients []*client.Client
	begin   time.Time
	stop    context.CancelFunc
	work    sync.WaitGroup
	next    atomic.Int64 // value of the next write
	acks    atomic.Int64
	last    atomic.Int64 // UnixNano of the last acknowledgement

	mu  sync.Mutex
	ops []porcupine.Operation
}

const (
	registers   = 8
	callTimeout = 3 * time.Second
	forEver     = math.MaxInt64
)

// operation is what a client asks for.
type operation struct {
	register int
	write    bool
	value    int64
}

// registerModel says what linearizable registers answer; 0 is one that was never written.
var registerModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := make([][]porcupine.Operation, registers)
		for _, op := range all {
			r := op.Input.(operation).register
			by[r] = append(by[r], op)
		}
		return by
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(operation); in.write {
			return true, in.value
		}
		return output.(int64) == state.(int64), state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " ", output) },
}

// startLoad has writers and as many readers work on each of the clients until finish.
func startLoad(t *testing.T, clients []*client.Client, writers int) *load {
	t.Helper()
	l := &load{t: t, clients: clients, begin: time.Now()}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	t.Cleanup(func() { stop(); l.work.Wait() })
	for i := range writers {
		c := clients[i%len(clients)]
		l.work.Go(func() { l.write(ctx, 2*i, c) })
		l.work.Go(func() { l.read(ctx, 2*i+1, c) })
	}
	return l
}

func (l *load) now() int64 { return time.Since(l.begin).Nanoseconds() }

func (l *load) record(op porcupine.Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

func (l *load) write(ctx context.Context, id int, c *client.Client) {
	for ctx.Err() == nil {
		in := operation{register: rand.IntN(registers), write: true, value: l.next.Add(1)}
		request := &fleetv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: &fleetv1.Quota{
			Meta: &fleetv1.Meta{Name: registerName(in.register)}, Spec: &fleetv1.QuotaSpec{Instances: &in.value}}}
		op := porcupine.Operation{ClientId: id, Input: in, Call: l.now(), Return: forEver}
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := c.Quotas.SetQuota(call, request)
			cancel()
			if err == nil {
				op.Return = l.now()
				l.acks.Add(1)
				l.last.Store(time.Now().UnixNano())
				break
			}
			if code := status.Code(err); code == codes.InvalidArgument || code == codes.PermissionDenied || code == codes.Unauthenticated {
				l.t.Errorf("a write was refused: %v", err)
				return
			}
			pause(ctx, 50*time.Millisecond)
		}
		l.record(op)
	}
}

func (l *load) read(ctx context.Context, id int, c *client.Client) {
	for ctx.Err() == nil {
		in := operation{register: rand.IntN(registers)}
		op := porcupine.Operation{ClientId: id, Input: in, Call: l.now()}
		value, err := readRegister(ctx, c, in.register)
		if err == nil {
			op.Output, op.Return = value, l.now()
			l.record(op)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func registerName(register int) string { return fmt.Sprintf("register-%d", register) }

func readRegister(ctx context.Context, c *client.Client, register int) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.Quotas.GetQuota(ctx, &fleetv1.GetQuotaRequest{Project: registerName(register)})
	if status.Code(err) == codes.NotFound {
		return 0, nil
	}
	return answer.GetQuota().GetSpec().GetInstances(), err
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// resumes waits for an acknowledgement of a write that was sent after the call.
func (l *load) resumes(limit time.Duration) time.Duration {
	l.t.Helper()
	start, deadline := time.Now(), time.Now().Add(limit)
	for have := l.acks.Load(); l.acks.Load() < have+1; {
		if time.Now().After(deadline) {
			l.t.Fatalf("no write was acknowledged within %s", limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// finish ends the load, reads every register once more, and checks that all that was seen is what one copy of the
// registers could have answered.
func (l *load) finish(c *client.Client) {
	l.t.Helper()
	l.stop()
	l.work.Wait()
	for r := range registers {
		op := porcupine.Operation{ClientId: -1, Input: operation{register: r}, Call: l.now()}
		value, err := readRegister(context.WithoutCancel(l.t.Context()), c, r)
		if err != nil {
			l.t.Fatalf("read register %d at the end: %v", r, err)
		}
		op.Output, op.Return = value, l.now()
		l.record(op)
		l.alike(c, r)
	}
	acked, unknown := 0, 0
	for i, op := range l.ops {
		if op.Input.(operation).write {
			acked++
		}
		if op.Return == forEver {
			unknown++
			l.ops[i].Output = int64(0)
		}
	}
	l.t.Logf("%d operations, %d of them writes, of which %d were never acknowledged", len(l.ops), acked, unknown)
	if acked-unknown < 10 {
		l.t.Errorf("only %d writes were acknowledged", acked-unknown)
	}
	switch porcupine.CheckOperationsTimeout(registerModel, l.ops, time.Minute) {
	case porcupine.Illegal:
		l.t.Error("the history is not linearizable: an acknowledged write was lost, took effect twice, or a read was stale")
		l.logStale()
	case porcupine.Unknown:
		l.t.Error("the history could not be checked within a minute")
	}
}

// alike waits until every scheduler's own copy of a register is what they answer together: writes that were never
// acknowledged may still happen.
func (l *load) alike(c *client.Client, register int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), healed)
	defer cancel()
	stale := client.WithConsistency(ctx, fleetv1.ConsistencyStale)
	var seen string
	for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		want, err := readRegister(ctx, c, register)
		same := err == nil
		now := fmt.Sprintf("together %d %v", want, err)
		for i, c := range l.clients {
			has, err := readRegister(stale, c, register)
			same = same && err == nil && has == want
			now += fmt.Sprintf(", scheduler %d %d %v", i+1, has, err)
		}
		if same {
			return
		}
		if ctx.Err() == nil {
			seen = now
		}
	}
	l.t.Errorf("the schedulers' copies of register %d differ: %s", register, seen)
}

// logStale says which reads answered a value that an acknowledged write had replaced before they began, as the commonest
// reason for which a history is wrong.
func (l *load) logStale() {
	written := map[int64]porcupine.Operation{0: {Return: -1}}
	var writes [registers][]porcupine.Operation
	for _, op := range l.ops {
		if in := op.Input.(operation); in.write {
			written[in.value] = op
			writes[in.register] = append(writes[in.register], op)
		}
	}
	since := func(ns int64) string { return l.begin.Add(time.Duration(ns)).Format("05.000000") }
	for _, read := range l.ops {
		in := read.Input.(operation)
		if in.write {
			continue
		}
		old := written[read.Output.(int64)]
		by := slices.IndexFunc(writes[in.register], func(w porcupine.Operation) bool { return w.Call > old.Return && w.Return < read.Call })
		if by >= 0 {
			w := writes[in.register][by]
			l.t.Logf("client %d read %d of register %d from %s to %s, which %d had replaced from %s to %s",
				read.ClientId, read.Output, in.register, since(read.Call), since(read.Return), w.Input.(operation).value, since(w.Call), since(w.Return))
		}
	}
}

// The check finds a lost write and a stale read.
func TestHistoriesCanBeWrong(t *testing.T) {
	write := func(v, call, end int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 0, Input: operation{write: true, value: v}, Call: call, Return: end}
	}
	read := func(v, call, end int64) porcupine.Operation {
		return porcupine.Operation{ClientId: 1, Input: operation{}, Output: v, Call: call, Return: end}
	}
	for name, c := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"good":                   {[]porcupine.Operation{write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)}, true},
		"lost":                   {[]porcupine.Operation{write(1, 0, 1), read(0, 2, 3)}, false},
		"stale":                  {[]porcupine.Operation{write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)}, false},
		"unknown, and happened":  {[]porcupine.Operation{write(1, 0, forEver), read(1, 2, 3)}, true},
		"unknown, and it didn't": {[]porcupine.Operation{write(1, 0, forEver), read(0, 2, 3)}, true},
		"unknown, and undone":    {[]porcupine.Operation{write(1, 0, forEver), read(1, 2, 3), read(0, 4, 5)}, false},
	} {
		if got := porcupine.CheckOperations(registerModel, c.ops); got != c.ok {
			t.Errorf("%s: %t, want %t", name, got, c.ok)
		}
	}
}
