package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Of a job that is shown to people: more is for -o json.
const (
	shownTasks     = 100
	shownManifests = 10
	shownItems     = 5
)

func (a *app) jobShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show JOB", Short: "Show one job: how far it is, its tasks, what is slow and what fails",
		Example:           "  drover job show flowers\n  drover job show flowers -o json",
		Args:              exactly("JOB"),
		ValidArgsFunction: a.names(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Jobs.GetJob, &fleetv1.GetJobRequest{Project: a.project, Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawJob(cmd.Context(), cl, resp) })
		},
	}
	return a.reading(a.projected(cmd))
}

func (a *app) drawJob(ctx context.Context, cl *client.Client, r *fleetv1.GetJobResponse) error {
	if err := a.drawJobState(r); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if err := a.drawJobSpec(r.GetJob()); err != nil {
		return err
	}
	tasks := jobTasks(r.GetTasks(), r.GetInstances())
	if len(tasks) > 0 {
		fmt.Fprintln(a.out, "\nTasks:")
		if err := a.draw(taskTable(tasks[:min(len(tasks), shownTasks)]), "  "); err != nil {
			return err
		}
		if more := len(tasks) - shownTasks; more > 0 {
			fmt.Fprintf(a.out, "  and %d more: -o json lists all\n", more)
		}
	}
	if r.GetWaiting() != nil {
		fmt.Fprintln(a.out, "\nWaiting:")
		if err := a.drawExplanation(r.GetWaiting()); err != nil {
			return err
		}
	}
	if err := a.drawItems(tasks); err != nil {
		return err
	}
	if m := r.GetProgress().GetManifests(); len(m) > 0 {
		fmt.Fprintln(a.out, "\nManifests:")
		for _, url := range m[:min(len(m), shownManifests)] {
			fmt.Fprintf(a.out, "  %s\n", url)
		}
		if more := len(m) - shownManifests; more > 0 {
			fmt.Fprintf(a.out, "  and %d more: -o json lists all\n", more)
		}
	}
	events, err := read(ctx, a, cl.Events.ListEvents, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{
		Project: r.GetJob().GetMeta().GetProject(), Kind: fleetv1.KindJob, Name: r.GetJob().GetMeta().GetId(), Limit: shownEvents,
	}})
	if err != nil || len(events.GetEvents()) == 0 {
		return err
	}
	fmt.Fprintln(a.out, "\nEvents:")
	return a.draw(a.eventTable(events.GetEvents()), "  ")
}

// drawJobState shows what a job is and how far it has got.
func (a *app) drawJobState(r *fleetv1.GetJobResponse) error {
	j, st, at := r.GetJob(), r.GetJob().GetStatus(), r.GetProgress()
	var p pairs
	p.addf("Name", "%s", j.GetMeta().GetName())
	p.addf("ID", "%s", j.GetMeta().GetId())
	p.addf("Project", "%s", j.GetMeta().GetProject())
	p.add("State", stateCell(st.GetState()))
	if st.GetReason() != "" {
		p.addf("Reason", "%s", oneLine(st.GetReason()))
	}
	p.addf("Since", "%s", a.when(st.GetStateTime()))
	p.addf("Asked to be", "%s", j.GetDesired().GetState())
	p.addf("Started", "%s", a.when(st.GetStartTime()))
	if st.GetEndTime() != nil {
		p.addf("Ended", "%s", a.when(st.GetEndTime()))
	}
	p.addf("Created", "%s by %s", a.when(j.GetMeta().GetCreateTime()), j.GetMeta().GetCreatedBy())
	found := ""
	if !at.GetListed() {
		found = " found so far"
	}
	p.addf("Items", "%d%s: %d successful, %d failed, %d left, %d of them in hand", at.GetItems(), found, at.GetSuccessful(), at.GetFailed(), at.GetLeft(), at.GetInHand())
	p.addf("Progress", "%s", portion(done(at), whole(at)))
	if at.GetRate() > 0 {
		speed := rateText(at.GetRate())
		if left := leftText(at); left != "" {
			speed += ", " + left + " left"
		}
		p.addf("Rate", "%s", speed)
	}
	p.addf("Bytes", "%s read, %s written", bytesText(at.GetInputBytes()), bytesText(at.GetOutputBytes()))
	return a.drawPairs(p)
}

// drawJobSpec shows what was asked for.
func (a *app) drawJobSpec(j *fleetv1.Job) error {
	s := j.GetSpec()
	var p pairs
	if s.GetDescription() != "" {
		p.addf("Description", "%s", s.GetDescription())
	}
	p.addf("Model", "%s", jobModel(s))
	p.addf("Request path", "%s", s.GetRequestPath())
	p.addf("Pool", "%s", s.GetPool())
	p.addf("Instances", "%d to %d of flavor %s", s.GetMinInstances(), s.GetInstances(), s.GetFlavor())
	if rules := placementText(&fleetv1.ServiceVersion{Priority: s.GetPriority(), Nodes: s.GetNodes(), Placement: s.GetPlacement()}); rules != "" {
		p.addf("Placement", "%s", rules)
	}
	p.addf("Input", "%s", s.GetInput())
	format := first(s.GetInputFormat(), "jsonl or json, as the inputs' names end")
	if s.GetBatchRows() > 1 {
		format += fmt.Sprintf(", %d rows a request", s.GetBatchRows())
	}
	p.addf("Format", "%s", format)
	p.addf("Output", "%s", s.GetOutput())
	p.addf("Requests", "%ds each, %d in flight at most, tried again %s after a fault of the item, %s after one of the model", s.GetItemTimeoutSeconds(),
		s.GetMaxConcurrency(), counted(int(s.GetItemRetries()), "time", "times"), counted(int(s.GetModelRetries()), "time", "times"))
	p.addf("Strict", "%s", yesNo(s.GetStrict()))
	for _, k := range slices.Sorted(maps.Keys(s.GetEnv())) {
		p.addf("Env", "%s=%s", k, s.GetEnv()[k])
	}
	if tags := j.GetMeta().GetTags(); len(tags) > 0 {
		p.addf("Tags", "%s", words(tags))
	}
	return a.drawPairs(p)
}

// jobTask is a task beside what its instance is doing.
type jobTask struct {
	*fleetv1.JobTask
	state string
}

// jobTasks are the tasks of a job, and its instances that have not taken part yet.
func jobTasks(tasks []*fleetv1.JobTask, instances []*fleetv1.Instance) []jobTask {
	states := make(map[string]string, len(instances))
	for _, i := range instances {
		states[i.GetMeta().GetName()] = instanceState(i)
	}
	var all []jobTask
	for _, t := range tasks {
		all = append(all, jobTask{t, first(states[t.GetInstance()], t.GetState())})
		delete(states, t.GetInstance())
	}
	for _, i := range instances {
		if state, ok := states[i.GetMeta().GetName()]; ok {
			all = append(all, jobTask{&fleetv1.JobTask{Instance: i.GetMeta().GetName(), Node: i.GetSpec().GetNode()}, state})
		}
	}
	return all
}

// name is that of the task, or of an instance that has not become one yet.
func (t jobTask) name() string {
	if t.GetTask() == "" {
		return "instance/" + t.GetInstance()
	}
	return "task/" + t.GetTask()
}

// line is what the task does now.
func (t jobTask) line() string {
	line, p := first(t.state, "is gone"), t.GetProgress()
	if p == nil {
		return line
	}
	line += fmt.Sprintf("  %d done, %d failed, %s, %d in flight", p.GetSuccessful()+p.GetFailed(), p.GetFailed(), rateText(p.GetRate()), p.GetInFlight())
	if p.GetTrouble() != "" {
		line += "  waits: " + oneLine(p.GetTrouble())
	}
	return line
}

func taskTable(tasks []jobTask) *table {
	t := &table{
		head:  []string{"TASK", "INSTANCE", "NODE", "STATE", "DONE", "FAILED", "RETRIES", "RATE", "IN FLIGHT", "MEDIAN", "SLOWEST", "TROUBLE"},
		spare: []string{"RETRIES", "SLOWEST", "MEDIAN", "INSTANCE", "IN FLIGHT", "NODE"},
	}
	for _, one := range tasks {
		p := one.GetProgress()
		if p == nil { // not known, which isn't 0
			t.add(text("%s", one.GetTask()), text("%s", one.GetInstance()), text("%s", one.GetNode()), text("%s", one.state),
				cell{}, cell{}, cell{}, cell{}, cell{}, cell{}, cell{}, cell{})
			continue
		}
		t.add(text("%s", one.GetTask()), text("%s", one.GetInstance()), text("%s", one.GetNode()), text("%s", one.state),
			text("%d", p.GetSuccessful()+p.GetFailed()), failedCell(p.GetFailed()), text("%d", p.GetRetries()), text("%s", rateText(p.GetRate())),
			text("%d/%d", p.GetInFlight(), p.GetConcurrency()), text("%s", millisText(p.GetMedianMillis())), text("%s", millisText(p.GetSlowestMillis())),
			cell{text: oneLine(p.GetTrouble()), colour: yellow})
	}
	return t
}

// drawItems shows the items that have run longest, and those that failed last.
func (a *app) drawItems(tasks []jobTask) error {
	var slowest, failing []*fleetv1.TaskItem
	for _, t := range tasks {
		slowest = append(slowest, t.GetProgress().GetSlow()...)
		failing = append(failing, t.GetProgress().GetFailing()...)
	}
	slices.SortStableFunc(slowest, func(x, y *fleetv1.TaskItem) int { return cmp.Compare(y.GetMillis(), x.GetMillis()) })
	slow, fail := &table{head: []string{"TIME", "SOURCE"}}, &table{head: []string{"SOURCE", "WHY"}}
	for _, i := range slowest[:min(len(slowest), shownItems)] {
		slow.add(text("%s", millisText(float64(i.GetMillis()))), text("%s", oneLine(i.GetSource())))
	}
	for _, i := range failing[:min(len(failing), shownItems)] {
		fail.add(text("%s", oneLine(i.GetSource())), text("%s", oneLine(i.GetMessage())))
	}
	if len(slow.rows) > 0 {
		fmt.Fprintln(a.out, "\nSlowest items:")
		if err := a.draw(slow, "  "); err != nil {
			return err
		}
	}
	if len(fail.rows) > 0 {
		fmt.Fprintln(a.out, "\nFailing items:")
		return a.draw(fail, "  ")
	}
	return nil
}

// done counts the items that have ended.
func done(p *fleetv1.JobProgress) int64 { return p.GetSuccessful() + p.GetFailed() }

// whole is the number of all items, 0 while it isn't known.
func whole(p *fleetv1.JobProgress) int64 {
	if !p.GetListed() {
		return 0
	}
	return p.GetItems()
}

// tenths are how many tenths of the items have ended, 0 while not all are known.
func tenths(p *fleetv1.JobProgress) int64 {
	if whole(p) == 0 {
		return 0
	}
	return 10 * done(p) / whole(p)
}

// itemsText is how many items there are; "1000+" while more are being found.
func itemsText(p *fleetv1.JobProgress) string {
	if !p.GetListed() {
		return fmt.Sprintf("%d+", p.GetItems())
	}
	return strconv.FormatInt(p.GetItems(), 10)
}

// rateText is a number of items a second.
func rateText(perSecond float64) string {
	digits := 1
	if perSecond >= 100 {
		digits = 0
	}
	return strings.TrimSuffix(strconv.FormatFloat(perSecond, 'f', digits, 64), ".0") + "/s"
}

// leftText is how long the job goes on at its present rate; empty while unknown.
func leftText(p *fleetv1.JobProgress) string {
	if p.GetLeftSeconds() <= 0 {
		return ""
	}
	return duration(time.Duration(p.GetLeftSeconds()) * time.Second)
}

// millisText is a length of time with three digits that matter; empty for none.
func millisText(ms float64) string {
	switch {
	case ms <= 0:
		return ""
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 1, 64) + "ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64) + "ms"
	case ms < 120_000:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + "s"
	}
	return duration(time.Duration(ms) * time.Millisecond)
}
