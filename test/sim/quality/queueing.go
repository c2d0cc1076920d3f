package quality

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/drover-fleet/drover/test/sim/trace"
)

// Delays are how long jobs waited.
type Delays struct {
	Jobs                      int
	Mean, P50, P90, P99, Most time.Duration
	// Big are the jobs of 8 devices or more alone.
	BigJobs         int
	BigMean, BigP99 time.Duration
	// Makespan is when the last job has ended.
	Makespan time.Duration
}

// Jobs are the jobs of a trace, one for each instance, ordered by their submission.
func Jobs(events []trace.Event) []Job {
	var jobs []Job
	for i := range events {
		e := &events[i]
		if e.Kind != trace.Deploy || e.Run <= 0 || e.Shape.Devices == 0 {
			continue
		}
		for range e.Instances {
			jobs = append(jobs, Job{ID: len(jobs), Submit: seconds(e.At), Run: seconds(e.Run), Devices: min(e.Shape.Devices, PerNode), Nodes: max(e.Shape.Nodes, 1)})
		}
	}
	return jobs
}

// mostWaiting are shown to a policy at once: the rest of a longer queue has to wait anyway.
const mostWaiting = 512

// Queue has a policy run the jobs, which are ordered by their submission. A job that needs more nodes than there
// are is an error.
func Queue(p Policy, jobs []Job) (Delays, error) {
	nodes := len(p.Free())
	var waiting []Job
	var running []ending
	var delays, big []time.Duration
	var now time.Duration
	next := 0
	for next < len(jobs) || len(running) > 0 || len(waiting) > 0 {
		now = soonest(now, jobs[next:], running, waiting)
		for ; next < len(jobs) && jobs[next].Submit <= now; next++ {
			if jobs[next].Nodes > nodes {
				return Delays{}, fmt.Errorf("job %d needs %d nodes of %d", jobs[next].ID, jobs[next].Nodes, nodes)
			}
			waiting = append(waiting, jobs[next])
		}
		for len(running) > 0 && running[0].at <= now {
			if err := p.End(running[0].id); err != nil {
				return Delays{}, fmt.Errorf("end job %d: %w", running[0].id, err)
			}
			running = running[1:]
		}
		started, err := p.Place(now, waiting[:min(len(waiting), mostWaiting)])
		if err != nil {
			return Delays{}, fmt.Errorf("place jobs at %s: %w", now, err)
		}
		for i := len(started) - 1; i >= 0; i-- {
			j := waiting[started[i]]
			waiting = slices.Delete(waiting, started[i], started[i]+1)
			delays = append(delays, now-j.Submit)
			if j.Devices*j.Nodes >= PerNode {
				big = append(big, now-j.Submit)
			}
			e := ending{now + j.Run, j.ID}
			at, _ := slices.BinarySearchFunc(running, e, ending.compare)
			running = slices.Insert(running, at, e)
		}
		if len(started) == 0 && len(running) == 0 && len(waiting) > 0 && next == len(jobs) && now-waiting[0].Submit > time.Hour {
			return Delays{}, fmt.Errorf("job %d isn't started though nothing runs", waiting[0].ID)
		}
	}
	return summarise(delays, big, now), nil
}

// ending is when a job ends.
type ending struct {
	at time.Duration
	id int
}

func (e ending) compare(o ending) int {
	return cmp.Or(cmp.Compare(e.at, o.at), cmp.Compare(e.id, o.id))
}

// soonest is when something happens next: a job comes or ends, or one has waited for long enough to have nodes
// reserved.
func soonest(now time.Duration, coming []Job, running []ending, waiting []Job) time.Duration {
	var at []time.Duration
	if len(coming) > 0 {
		at = append(at, coming[0].Submit)
	}
	if len(running) > 0 {
		at = append(at, running[0].at)
	}
	for _, j := range waiting[:min(len(waiting), mostWaiting)] {
		if due := j.Submit + reserveAfter; due > now {
			at = append(at, due)
			break
		}
	}
	if len(at) == 0 {
		return now + time.Hour
	}
	return max(now, slices.Min(at))
}

func summarise(delays, big []time.Duration, end time.Duration) Delays {
	d := Delays{Jobs: len(delays), BigJobs: len(big), Makespan: end}
	if slices.Sort(delays); len(delays) > 0 {
		d.Mean, d.P50, d.P90, d.P99, d.Most = mean(delays), quantile(delays, .5), quantile(delays, .9), quantile(delays, .99), delays[len(delays)-1]
	}
	if slices.Sort(big); len(big) > 0 {
		d.BigMean, d.BigP99 = mean(big), quantile(big, .99)
	}
	return d
}

func mean(all []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	return sum / time.Duration(len(all))
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}
