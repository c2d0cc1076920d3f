package health

import (
	"context"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fastest is how long Watch waits after the first failed probe of a starting instance.
const fastest = 2 * time.Millisecond

// Result is a change of health.
type Result struct {
	Healthy bool
	Reason  string // why not
}

// Watch probes until ctx ends and tells each change, from the calling goroutine: the first success, then
// failure_threshold consecutive failures, then the next success. healthy says that the instance was
// known to be healthy before, by an earlier agent.
func Watch(ctx context.Context, check *fleetv1.HealthCheck, target Target, healthy bool, tell func(Result)) {
	var (
		period    = seconds(check.GetPeriodSeconds(), 10)
		threshold = int(max(check.GetFailureThreshold(), 0))
		starting  = !healthy
		told      = healthy // what the caller knows
		knows     = healthy // whether the caller knows anything
		failures  = 0
		fast      = fastest
	)
	if threshold == 0 {
		threshold = 3
	}
	if starting && !sleep(ctx, time.Duration(check.GetInitialDelaySeconds())*time.Second) {
		return
	}
	boundary := time.Now().Add(period)
	for {
		err := Probe(ctx, check, target)
		if ctx.Err() != nil {
			return
		}
		wait := period
		if err == nil {
			starting, failures = false, 0
			if !told || !knows {
				told, knows = true, true
				tell(Result{Healthy: true})
			}
		} else {
			now := time.Now()
			if !starting || !now.Before(boundary) {
				failures, boundary = failures+1, now.Add(period)
			}
			if failures >= threshold && (told || !knows) {
				told, knows = false, true
				tell(Result{Reason: err.Error()})
			}
			if starting {
				wait = min(fast, boundary.Sub(now))
				fast = min(fast*5/4, period)
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep tells whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
