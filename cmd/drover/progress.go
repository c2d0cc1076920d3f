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
		columns, rows := p.a.terminalSize()
		p.redraw(p.picture(r, columns, rows))
		return
	}
	line := serviceLine(r.GetService())
	for _, why := range waiting(r.GetService()) {
		line += "; waiting: " + why
	}
	p.tell(p.name, line)
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

// picture is what a terminal of this size shows: no line wraps and none is scrolled away, since redraw couldn't
// replace those.
func (p *progress) picture(r *fleetv1.WatchServiceResponse, columns, rows int) []string {
	state := first(r.GetService().GetStatus().GetState(), "accepted")
	detail := cut(serviceDetail(r.GetService()), columns-len(p.name)-len(state)-2)
	lines := []string{p.name + " " + paint(stateCell(state), p.a.colour()) + detail}
	for _, why := range waiting(r.GetService()) {
		lines = append(lines, cut("  waiting: "+why, columns-1))
	}
	shown := r.GetInstances()
	if room := max(rows-len(lines)-2, 1); len(shown) > room {
		shown = shown[:room]
	}
	name, node := 0, 0
	for _, i := range shown {
		name, node = max(name, len(i.GetMeta().GetName())), max(node, len(i.GetSpec().GetNode()))
	}
	for _, i := range shown {
		line := fmt.Sprintf("  %-*s  %-*s  %s", name, i.GetMeta().GetName(), node, i.GetSpec().GetNode(), instanceState(i))
		if pull := pullOf(r, i); pull != nil {
			line += "  " + bar(pull.GetDoneBytes(), pull.GetTotalBytes())
		}
		lines = append(lines, cut(line, columns-1))
	}
	if more := len(r.GetInstances()) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return lines
}

// cut shortens text to so many columns.
func cut(text string, columns int) string {
	runes := []rune(text)
	if len(runes) <= columns {
		return text
	}
	return string(runes[:max(columns-1, 0)]) + "…"
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
func (p *progress) finish(gone bool) {
	if gone {
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
	return detail
}

// waiting is what the versions of a service wait for.
func waiting(s *fleetv1.Service) []string {
	var reasons []string
	for _, v := range s.GetStatus().GetVersions() {
		if r := v.GetWaitingReason(); r != "" && r != s.GetStatus().GetReason() {
			reasons = append(reasons, oneLine(r))
		}
	}
	return reasons
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

const barWidth = 16

// bar draws how far a pull has got; without a total, only how much.
func bar(done, total int64) string {
	if total <= 0 {
		return bytesText(done)
	}
	return portion(done, total) + " " + bytesText(done) + "/" + bytesText(total)
}

// portion draws a part of a whole; one that isn't known is an empty bar.
func portion(part, all int64) string {
	if all <= 0 {
		return "[" + strings.Repeat(".", barWidth) + "]"
	}
	full := int(min(part, all) * barWidth / all)
	return fmt.Sprintf("[%s%s] %3d%%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*min(part, all)/all)
}
