package devices

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Cadence of the registry (DESIGN §6), and how long one call of a backend may take. Discovery has half a
// minute so that a driver that appears is found within a minute.
const (
	usageEvery     = 5 * time.Second
	processesEvery = 30 * time.Second
	conditionEvery = 60 * time.Second
	discoverEvery  = 30 * time.Second
	patience       = 30 * time.Second
)

// A backend that fails is asked again after leastBackoff, doubling to mostBackoff. Failures other than
// ErrUnresponsive may be a moment's; after tolerated ones in a row the devices count as unresponsive.
const (
	leastBackoff = time.Second
	mostBackoff  = time.Minute
	tolerated    = 3
)

// vendor drives one backend.
type vendor struct {
	registry *Registry
	backend  Backend
	name     string
	asked    chan struct{}   // closed after the first discovery
	look     chan struct{}   // a signal came: see what it did
	asks     chan chan error // for fresh figures; the answer says how that went
	figures  Vendor          // the registry's lock guards it

	failures int   // in a row, of Discover and Sample
	trouble  error // the last of them
	calls    map[Figures]time.Time
	discover time.Time // when it's due
	looked   time.Time
}

func newVendor(r *Registry, b Backend) *vendor {
	return &vendor{
		registry: r, backend: b, name: b.Vendor(), asked: make(chan struct{}), look: make(chan struct{}, 1), asks: make(chan chan error),
		figures: Vendor{Name: b.Vendor()}, calls: map[Figures]time.Time{},
	}
}

// run polls and watches until ctx ends.
func (v *vendor) run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { v.watch(ctx) })
	v.poll(ctx)
	wg.Wait()
	return wrap("close", v.name, v.backend.Close())
}

func (v *vendor) poll(ctx context.Context) {
	now := time.Now()
	v.discover = now
	v.calls = map[Figures]time.Time{Usage: now, Processes: now, Condition: now}
	var once sync.Once
	timer := time.NewTimer(0)
	defer timer.Stop()
	look := v.look
	for {
		var asked []chan error
		select {
		case <-ctx.Done():
			return
		case <-look:
			now = time.Now()
			v.discover, v.calls[Condition], v.looked = now, now, now
			if len(v.registry.Quarantined()) > 0 {
				v.calls[Usage], v.calls[Processes] = now, now
			}
		case reply := <-v.asks:
			asked = append(v.waiting(), reply)
			now = time.Now()
			v.calls[Usage], v.calls[Processes] = now, now
		case <-timer.C:
		}
		err := v.step(ctx)
		for _, reply := range asked {
			reply <- err
		}
		once.Do(func() {
			close(v.asked)
			tell(v.registry.changed)
		})
		next, now := v.next(), time.Now()
		if v.failures > 0 || now.Sub(v.looked) < leastBackoff {
			// A storm of signals is one look a second, and none past the back-off.
			look = nil
			if v.failures == 0 {
				next = earlier(next, v.looked.Add(leastBackoff))
			}
		} else {
			look = v.look
		}
		timer.Reset(max(0, next.Sub(now)))
	}
}

// refresh has usage and processes measured anew, together with who else asks at the time.
func (v *vendor) refresh(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case v.asks <- reply:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnresponsive, ctx.Err())
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnresponsive, ctx.Err())
	}
}

// waiting takes those who ask at this moment.
func (v *vendor) waiting() []chan error {
	var all []chan error
	for {
		select {
		case reply := <-v.asks:
			all = append(all, reply)
		default:
			return all
		}
	}
}

// next answers when something is due. While the backend fails, discovery alone is.
func (v *vendor) next() time.Time {
	at := v.discover
	if v.failures == 0 {
		for _, due := range v.calls {
			at = earlier(at, due)
		}
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// step does what is due: discovery first, because it tells which devices there are to measure. Its error says
// why nothing could be measured.
func (v *vendor) step(ctx context.Context) error {
	now := time.Now()
	if !v.discover.After(now) {
		v.registry.lookAtPCI(v.name)
		var found []Device
		err := v.call(ctx, func(ctx context.Context) (err error) {
			found, err = v.backend.Discover(ctx)
			return err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return v.fail(wrap("discover", v.name, err))
		}
		if v.failures > 0 {
			v.registry.logger.Info("devices answer again", "vendor", v.name, "failures", v.failures)
		}
		v.failures, v.discover = 0, time.Now().Add(discoverEvery)
		v.registry.merge(v.name, found)
	}
	if v.failures > 0 {
		return v.trouble
	}
	return v.sample(ctx)
}

func (v *vendor) sample(ctx context.Context) error {
	now, what := time.Now(), Figures(0)
	for f, every := range map[Figures]time.Duration{Usage: usageEvery, Processes: processesEvery, Condition: conditionEvery} {
		if !v.calls[f].After(now) {
			what |= f
			v.calls[f] = now.Add(every)
		}
	}
	if what == 0 {
		return nil
	}
	if f, follows := v.backend.(Follower); follows && v.registry.Held != nil {
		f.SetHeld(v.registry.busy())
	}
	var samples []Sample
	err := v.call(ctx, func(ctx context.Context) (err error) {
		samples, err = v.backend.Sample(ctx, what)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return v.fail(wrap("measure", v.name, err))
	}
	v.registry.take(v.name, what, samples)
	return nil
}

// call asks the backend with a deadline, and counts it.
func (v *vendor) call(ctx context.Context, f func(context.Context) error) error {
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	err := f(callCtx)
	if err != nil && errors.Is(callCtx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%w within %s: %w", ErrUnresponsive, patience, err)
	}
	v.registry.mu.Lock()
	defer v.registry.mu.Unlock()
	v.figures.Calls++
	v.figures.Answered, v.figures.Took = err == nil, time.Since(start)
	if err != nil {
		v.figures.Failures++
	}
	return err
}

// fail backs off, tells the devices' health by the kind of error, and answers it.
func (v *vendor) fail(err error) error {
	v.failures++
	v.trouble = err
	wait := min(leastBackoff<<min(v.failures-1, 10), mostBackoff)
	v.discover = time.Now().Add(wait)
	if v.failures == 1 {
		v.registry.logger.Error("devices don't answer", "vendor", v.name, "error", err)
	}
	if errors.Is(err, ErrUnresponsive) || v.failures >= tolerated {
		v.registry.mark(v.name, fleetv1.Unresponsive, err.Error())
	}
	return err
}

// watch passes the backend's signals on, and watches again when watching ends.
func (v *vendor) watch(ctx context.Context) {
	wait, failing := leastBackoff, false
	for {
		start := time.Now()
		err := v.backend.Watch(ctx, func(s Signal) {
			if s.Time.IsZero() {
				s.Time = time.Now()
			}
			v.registry.signal(v.name, s, false)
			tell(v.look)
		})
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > mostBackoff {
			wait, failing = leastBackoff, false
		}
		if !failing {
			v.registry.logger.Warn("watching devices ended and is tried again", "vendor", v.name, "error", err)
		}
		failing = true
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, mostBackoff)
	}
}
