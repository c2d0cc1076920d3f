package fake

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// flapEvery is how long a flapping device stays as it is.
const flapEvery = 10 * time.Second

// every device, as the index of a step.
const every = -1

// step of a script.
type step struct {
	after   time.Duration
	index   int
	failure string
	code    int64
}

// fault is what's wrong with a device; zero is nothing.
type fault struct {
	health, reason string
	flapping       time.Time // since when
	errors         int64     // uncorrectable ones of memory
	leaks          bool      // a process and its memory stay when the holder has gone
}

// at answers a device's health.
func (f fault) at(now time.Time) (health, reason string) {
	switch {
	case !f.flapping.IsZero() && now.Sub(f.flapping)/flapEvery%2 == 0:
		return fleetv1.Unhealthy, "flapping"
	case f.health == "":
		return fleetv1.Healthy, ""
	}
	return f.health, f.reason
}

// parseStep reads "AFTER:INDEX:FAILURE".
func parseStep(text string, count int) (step, error) {
	after, rest, _ := strings.Cut(text, ":")
	index, failure, found := strings.Cut(rest, ":")
	if !found {
		return step{}, errors.New("not three parts")
	}
	var s step
	var err error
	if s.after, err = time.ParseDuration(after); err != nil || s.after < 0 {
		return step{}, fmt.Errorf("%q is no duration", after)
	}
	if s.index, err = strconv.Atoi(index); index == "all" {
		s.index = every
	} else if err != nil || s.index < 0 || s.index >= count {
		return step{}, fmt.Errorf("there is no device %q", index)
	}
	s.failure, s.code, err = parseFailure(failure)
	return s, err
}

func parseFailure(text string) (failure string, code int64, err error) {
	failure, number, numbered := strings.Cut(text, " ")
	switch failure {
	case "xid":
		if code, err = strconv.ParseInt(number, 10, 64); err != nil || code < 0 || code > math.MaxInt32 {
			return "", 0, fmt.Errorf("failure %q: an XID is a number", text)
		}
		return failure, code, nil
	case "lost", "ecc", "unresponsive", "flapping", "leak", "recover":
		if !numbered {
			return failure, 0, nil
		}
	}
	return "", 0, fmt.Errorf("failure %q is none of lost, xid N, ecc, unresponsive, flapping, leak, recover", text)
}

// Inject makes a device fail now: "lost", "xid N" (which alone changes no health), "ecc", "unresponsive",
// "flapping" (unhealthy and healthy by turns of 10 s), "leak" (a process and its memory stay on it when its holder
// has gone), or makes it "recover". Index -1 is every device;
// "unresponsive" of every one is the library hanging.
func (b *Backend) Inject(index int, failure string) error {
	word, code, err := parseFailure(failure)
	if err != nil {
		return err
	}
	if index < every || index >= len(b.models) {
		return fmt.Errorf("there is no fake device %d", index)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applyLocked(step{index: index, failure: word, code: code})
	return nil
}

func (b *Backend) applyLocked(s step) {
	if s.index == every && (s.failure == "unresponsive" || s.failure == "recover") {
		b.silent = s.failure == "unresponsive"
	}
	for i := range b.models {
		if s.index != every && s.index != i {
			continue
		}
		f, now := &b.faults[i], b.Now()
		tell := func(kind devices.SignalKind, words string) {
			b.signals = append(b.signals, devices.Signal{DeviceID: b.id(i), Kind: kind, Code: s.code, Time: now, Text: words})
		}
		switch s.failure {
		case "lost":
			f.health, f.reason = fleetv1.Lost, "fell off the bus"
			tell(devices.SignalLost, f.reason)
		case "xid":
			tell(devices.SignalXID, fmt.Sprintf("Xid %d", s.code))
		case "ecc":
			f.errors++
			f.health, f.reason = fleetv1.Unhealthy, "uncorrectable memory error"
			tell(devices.SignalECC, f.reason)
		case "unresponsive":
			f.health, f.reason = fleetv1.Unresponsive, "does not answer"
		case "flapping":
			f.flapping = now
			tell(devices.SignalFault, "flapping")
		case "leak":
			f.leaks = true
		case "recover":
			*f = fault{errors: f.errors}
			tell(devices.SignalRecovered, "")
		}
	}
	close(b.wake)
	b.wake = make(chan struct{})
}

// playLocked does what the script has due, and answers how long it is to the next step; 0 when there is
// none.
func (b *Backend) playLocked() time.Duration {
	now := b.Now()
	if b.started.IsZero() {
		b.started = now
	}
	for len(b.script) > 0 {
		if wait := b.script[0].after - now.Sub(b.started); wait > 0 {
			return wait
		}
		s := b.script[0]
		b.script = b.script[1:]
		b.applyLocked(s)
	}
	return 0
}

// enter begins a call: it hangs, as the library would, until ctx ends or the library answers again.
func (b *Backend) enter(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		b.playLocked()
		silent, wake := b.silent, b.wake
		b.mu.Unlock()
		if !silent {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", devices.ErrUnresponsive, ctx.Err())
		case <-wake:
		}
	}
}

// Watch implements devices.Backend.
func (b *Backend) Watch(ctx context.Context, f func(devices.Signal)) error {
	for {
		b.mu.Lock()
		wait := b.playLocked()
		told, wake := b.signals, b.wake
		b.signals = nil
		b.mu.Unlock()
		for _, s := range told {
			f(s)
		}
		if wait == 0 {
			wait = time.Hour
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}
