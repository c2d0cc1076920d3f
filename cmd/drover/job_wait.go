package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// jobGoal is what a wait for a job waits for, as goal is for services.
type jobGoal struct {
	name  string
	check func(j *fleetv1.Job, p *fleetv1.JobProgress) (done bool, err error)
}

// The job's status lags behind what was asked: it is an answer only when it is about the run that was asked for.
var (
	jobEnded = jobGoal{"end", func(j *fleetv1.Job, p *fleetv1.JobProgress) (bool, error) {
		name := j.GetMeta().GetName()
		switch st := j.GetStatus(); {
		case !over(j):
			return false, nil
		case st.GetState() == fleetv1.JobFailed:
			return false, fmt.Errorf("%s: %s", st.GetState(), first(st.GetReason(), "no reason given"))
		case st.GetState() == fleetv1.JobStopped:
			return false, fmt.Errorf("%s with %d of %s items done; `drover job start %s` goes on with the others", st.GetState(), done(p), itemsText(p), name)
		case p.GetFailed() > 0:
			return false, &itemsError{name, p.GetFailed(), p.GetItems()}
		}
		return true, nil
	}}
	jobStopped = jobGoal{"stop", func(j *fleetv1.Job, _ *fleetv1.JobProgress) (bool, error) {
		if j.GetDesired().GetState() == fleetv1.DesiredRunning && !over(j) {
			return false, errors.New("it was started again meanwhile")
		}
		return over(j), nil
	}}
	jobGone = jobGoal{"go", func(*fleetv1.Job, *fleetv1.JobProgress) (bool, error) { return false, nil }}
)

// over says whether the run that was asked for has ended.
func over(j *fleetv1.Job) bool {
	switch j.GetStatus().GetState() {
	case fleetv1.JobCompleted, fleetv1.JobFailed, fleetv1.JobStopped:
		return j.GetStatus().GetRun() >= j.GetDesired().GetRun()
	}
	return false
}

// itemsError is a complete job that a script shouldn't take for a success.
type itemsError struct {
	job           string
	failed, items int64
}

func (e *itemsError) Error() string {
	have := "have"
	if e.failed == 1 {
		have = "has"
	}
	return fmt.Sprintf("Completed, but %d of %d items %s failed: `drover job errors %s` says why, `drover job retry %s` runs them again",
		e.failed, e.items, have, e.job, e.job)
}

// waitJob watches the job until the goal is reached or can't be any more.
func (a *app) waitJob(ctx context.Context, cl *client.Client, j *fleetv1.Job, g jobGoal, w waitFlags) error {
	show := a.newProgress("job/" + j.GetMeta().GetName())
	defer show.end()
	last := ""
	reached, err := a.await(ctx, show.name, "drover job show "+j.GetMeta().GetName(), w, &last, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := cl.Jobs.WatchJob(ctx, &fleetv1.WatchJobRequest{Project: j.GetMeta().GetProject(), Name: j.GetMeta().GetName()})
		return readWatch(stream, err, g.name == jobGone.name, func(r *fleetv1.WatchJobResponse) (bool, error) {
			last = stateText(r.GetJob().GetStatus())
			show.job(r)
			return g.check(r.GetJob(), r.GetProgress())
		})
	})
	if reached {
		show.finish(g.name == jobGone.name)
	}
	return err
}

// job shows how far a job has got: all of it on a terminal; elsewhere a line for each tenth of the items, and for each change
// of its state and of its instances.
func (p *progress) job(r *fleetv1.WatchJobResponse) {
	if p.a.terminal {
		columns, rows := p.a.terminalSize()
		p.redraw(p.jobPicture(r, columns, rows))
		return
	}
	st, at := r.GetJob().GetStatus(), r.GetProgress()
	if said := fmt.Sprintf("%s, %t, %d", stateText(st), at.GetListed(), tenths(at)); p.told[p.name] != said {
		p.told[p.name] = said
		fmt.Fprintf(p.out, "%s %s\n", p.name, jobLine(r))
	}
	if why := r.GetWaiting().GetSummary(); why != "" {
		p.tell(p.name+" waiting:", oneLine(why))
	}
	if over(r.GetJob()) { // how its instances end says nothing about it
		return
	}
	for _, t := range jobTasks(r.GetTasks(), r.GetInstances()) {
		line := first(t.state, "is gone")
		if trouble := t.GetProgress().GetTrouble(); trouble != "" {
			line += ", waits: " + oneLine(trouble)
		}
		p.tell(t.name(), line)
	}
}

// jobPicture is what a terminal of this size shows, as picture does for services.
func (p *progress) jobPicture(r *fleetv1.WatchJobResponse, columns, rows int) []string {
	st, at := r.GetJob().GetStatus(), r.GetProgress()
	state := first(st.GetState(), "accepted")
	detail := ""
	if st.GetReason() != "" {
		detail = ": " + oneLine(st.GetReason())
	}
	lines := []string{
		p.name + " " + paint(stateCell(state), p.a.colour()) + cut(detail, columns-len([]rune(p.name))-len(state)-2),
		cut("  "+portion(done(at), whole(at))+"  "+jobNumbers(at), columns-1),
	}
	if why := r.GetWaiting().GetSummary(); why != "" {
		lines = append(lines, cut("  waiting: "+oneLine(why), columns-1))
	}
	tasks := jobTasks(r.GetTasks(), r.GetInstances())
	shown := tasks
	if room := max(rows-len(lines)-2, 1); len(shown) > room {
		shown = shown[:room]
	}
	name, node := 0, 0
	for _, t := range shown {
		name, node = max(name, len(t.name())), max(node, len(t.GetNode()))
	}
	for _, t := range shown {
		lines = append(lines, cut(fmt.Sprintf("  %-*s  %-*s  %s", name, t.name(), node, t.GetNode(), t.line()), columns-1))
	}
	if more := len(tasks) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return lines
}

// jobLine sums a job up.
func jobLine(r *fleetv1.WatchJobResponse) string {
	line := first(r.GetJob().GetStatus().GetState(), "accepted") + " " + jobNumbers(r.GetProgress())
	if reason := r.GetJob().GetStatus().GetReason(); reason != "" {
		line += ": " + oneLine(reason)
	}
	return line
}

// jobNumbers is how many items are done, how fast, and until when.
func jobNumbers(p *fleetv1.JobProgress) string {
	line := fmt.Sprintf("%d of %s items, %d failed", done(p), itemsText(p), p.GetFailed())
	if p.GetRate() > 0 {
		line += ", " + rateText(p.GetRate())
	}
	if left := leftText(p); left != "" {
		line += ", " + left + " left"
	}
	return line
}
