package main

import (
	"fmt"
	"io"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// progress shows a service on its way: moving lines on a terminal, a line for each change elsewhere.
type progress struct {
	a     *app
	out   io.Writer
	name  string
	drawn int               // lines on the terminal that the next picture replaces
	told  map[string]string // what was last said about each subject, when not on a terminal
}

func (a *app) newProgress(name string) *progress {
	return &progress{a: a, out: a.out, name: name, told: make(map[string]string)}
}

func (p *progress) update(r *fleetv1.WatchServiceResponse) {
	if p.a.terminal {
		p.redraw(p.picture(r))
		return
	}
	p.tell(p.name, serviceLine(r.GetService()))
	for _, i := range r.GetInstances() {
		line := fmt.Sprintf("%s on %s", instanceState(i), i.GetSpec().GetNode())
		if pull := pullOf(r, i); pull != nil && pull.GetTotalBytes() > 0 {
			quarter := 25 * (4 * pull.GetDoneBytes() / pull.GetTotalBytes())
			line += fmt.Sprintf(", %d%% of %s pulled", quarter, bytesText(pull.GetTotalBytes()))
		}
		p.tell("instance/"+i.GetMeta().GetName(), line)
	}
}

// tell prints a line when it says something new about its subject.
func (p *progress) tell(subject, line string) {
	if p.told[subject] != line {
		p.told[subject] = line
		fmt.Fprintf(p.out, "%s %s\n", subject, line)
	}
}

func (p *progress) picture(r *fleetv1.WatchServiceResponse) []string {
	colour := p.a.colour()
	st := r.GetService().GetStatus()
	lines := []string{p.name + " " + paint(stateCell(first(st.GetState(), "accepted")), colour) + serviceDetail(r.GetService())}
	for _, i := range r.GetInstances() {
		line := fmt.Sprintf("  %-24s %-12s %s", i.GetMeta().GetName(), i.GetSpec().GetNode(), instanceState(i))
		if pull := pullOf(r, i); pull != nil {
			line += "  " + bar(pull.GetDoneBytes(), pull.GetTotalBytes())
		}
		lines = append(lines, line)
	}
	return lines
}

// redraw replaces the last picture: cursor up, then each line cleared and written.
func (p *progress) redraw(lines []string) {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", p.drawn)
	}
	for _, l := range lines {
		b.WriteString("\x1b[K" + l + "\n")
	}
	b.WriteString("\x1b[J")
	p.drawn = len(lines)
	io.WriteString(p.out, b.String())
}

// finish says that the goal is reached, where no picture shows it.
func (p *progress) finish(g goal) {
	if g.name == gone.name {
		p.drawn = 0
		fmt.Fprintf(p.out, "%s deleted\n", p.name)
	}
}

// end leaves the last picture standing.
func (p *progress) end() { p.drawn = 0 }

func serviceLine(s *fleetv1.Service) string {
	return first(s.GetStatus().GetState(), "accepted") + serviceDetail(s)
}

func serviceDetail(s *fleetv1.Service) string {
	ready, desired := readyCount(s)
	detail := fmt.Sprintf(" %d/%d ready", ready, desired)
	if r := s.GetStatus().GetReason(); r != "" {
		detail += ": " + oneLine(r)
	}
	for _, v := range s.GetStatus().GetVersions() {
		if r := v.GetWaitingReason(); r != "" && r != s.GetStatus().GetReason() {
			detail += "; waiting: " + oneLine(r)
		}
	}
	return detail
}

func readyCount(s *fleetv1.Service) (ready, desired int32) {
	for _, v := range s.GetStatus().GetVersions() {
		ready += v.GetReady()
	}
	for _, v := range s.GetSpec().GetVersions() {
		desired += v.GetInstances()
	}
	return ready, desired
}

// instanceState is what an instance does now, in a few words.
func instanceState(i *fleetv1.Instance) string {
	o := i.GetObserved()
	state := first(o.GetState(), "Placed")
	if o.GetState() == fleetv1.InstanceRunning {
		state += ", " + map[bool]string{true: "ready", false: "not ready"}[o.GetReady()]
	}
	if o.GetAttempt() > 1 {
		state += fmt.Sprintf(", attempt %d", o.GetAttempt())
	}
	if o.GetReason() != "" {
		state += " (" + oneLine(o.GetReason()) + ")"
	}
	return state
}

func pullOf(r *fleetv1.WatchServiceResponse, i *fleetv1.Instance) *fleetv1.PullProgress {
	if i.GetObserved().GetState() != fleetv1.InstancePulling {
		return nil
	}
	for _, p := range r.GetPulls() {
		if p.GetInstanceId() == i.GetMeta().GetId() {
			return p
		}
	}
	return nil
}

const barWidth = 24

// bar draws how far a pull has got; without a total, only how much.
func bar(done, total int64) string {
	if total <= 0 {
		return bytesText(done)
	}
	full := int(min(done, total) * barWidth / total)
	return fmt.Sprintf("[%s%s] %3d%% %s/%s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*min(done, total)/total, bytesText(done), bytesText(total))
}
