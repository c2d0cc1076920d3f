package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	maxSummary    = 300 // bytes
	maxNearMisses = 5
	maxExplained  = 1024 // classes
)

// explained are the answers of Explain, by class of request, while the index stays as it is.
type explained struct {
	version uint64
	kept    []kept
	by      map[string]*fleetv1.Explanation
}

// Explain says why no node takes the request now, or not enough nodes for a gang: what Plan has taken and
// reserved counts, but for what it reserved for the request itself. Each remedy was planned and does what it
// says. The answer is shared with other callers and must not be written to.
func (x *Index) Explain(r *Request) *fleetv1.Explanation {
	x.arrange()
	x.trim()
	if x.explained.version != x.version || !slices.Equal(x.explained.kept, x.kept) || len(x.explained.by) >= maxExplained {
		x.explained = explained{x.version, slices.Clone(x.kept), map[string]*fleetv1.Explanation{}}
	}
	key := x.explainKey(r)
	out := x.explained.by[key]
	if out == nil {
		out, _ = x.explain(r)
		x.explained.by[key] = out
	}
	return out
}

// explainKey is equal for requests that have one explanation.
func (x *Index) explainKey(r *Request) string {
	b := memberKey(r)
	b = strconv.AppendInt(append(b, '#'), int64(r.Priority), 10)
	mine := slices.ContainsFunc(x.kept, func(k kept) bool { return k.group.key == groupKey{r.Service, r.Version} })
	if u := newRules(r); mine || u.apart || len(u.spread) > 0 {
		return string(appendKey(b, r.Service, r.Version))
	}
	return string(appendKey(b, ""))
}

// removed are the nodes that each filter removed.
type removed struct {
	total int
	by    map[hurdle][]*node
	fit   []*node // that passed all
	all   []judged
}

// judged is a node with all filters that it does not pass.
type judged struct {
	node *node
	not  hurdle
}

// judge looks at every node.
func (l *look) judge(nodes []*node) *removed {
	out := &removed{total: len(nodes), by: map[hurdle][]*node{}, all: make([]judged, len(nodes))}
	for i, n := range nodes {
		h := l.hurdles(n)
		out.all[i] = judged{n, h}
		if h == 0 {
			out.fit = append(out.fit, n)
		} else {
			out.by[h.first()] = append(out.by[h.first()], n)
		}
	}
	return out
}

// explain is Explain without the memory, with the remedies in a form that can be tried.
func (x *Index) explain(r *Request) (*fleetv1.Explanation, []remedy) {
	p := x.pool(r.Pool)
	if p == nil {
		return &fleetv1.Explanation{Summary: fmt.Sprintf("there is no pool %q", r.Pool),
			Filters:  []*fleetv1.FilterCount{{Filter: "pool", Nodes: int32(len(x.slots)), Detail: fmt.Sprintf("are not in pool %q, which does not exist", r.Pool)}},
			Remedies: []string{fmt.Sprintf("make pool %q with nodes that can hold it", r.Pool)}}, nil
	}
	s := x.suppose()
	defer s.undo()
	c := x.class(r, identify(r))
	s.unkeep(c.group)
	l := newLook(r)
	l.index, l.group, l.kept = x, c.group, map[*node]*group{}
	if c.shape.cells.cellOf != nil || c.shape.rules.apart {
		l.tally = c.shape.tally(x, c.group)
	}
	for _, k := range x.kept {
		if k.priority >= r.Priority {
			l.kept[k.node] = k.group
		}
	}
	l.drains = func(n *node) bool { return x.view.Node(n.name).GetSpec().GetDrain() != nil }
	var nodes []*node
	for _, n := range x.slots {
		if p.has(n) {
			nodes = append(nodes, n)
		}
	}
	seen := l.judge(nodes)
	members := 0
	if r.members() > 1 {
		members = x.members(r, c)
	}
	out := &fleetv1.Explanation{Summary: l.summary(seen, members), Nodes: int32(len(nodes)), Filters: l.counts(seen, members)}
	if on, ok := s.place(r); ok {
		out.Summary = "it fits now, on " + several(on)
		return out, nil
	}
	out.NearMisses = l.nearMisses(seen)
	rs := (&healer{look: l, seen: seen, members: members, class: c}).remedies()
	for _, one := range rs {
		out.Remedies = append(out.Remedies, one.text)
	}
	return out, rs
}

// members is how many of a gang's members find a node.
func (x *Index) members(r *Request, c *class) int {
	first := len(x.taken)
	x.catchUp(c.shape, c.pool)
	n := x.fill(r, c, nil, true, first, r.members())
	x.undo(first)
	return n
}

// counts says what each filter removed.
func (l *look) counts(seen *removed, members int) (out []*fleetv1.FilterCount) {
	for _, h := range slices.Sorted(maps.Keys(seen.by)) {
		ns := seen.by[h]
		phrase, figures := l.tell(h, ns)
		out = append(out, &fleetv1.FilterCount{Filter: filterName(h), Nodes: int32(len(ns)), Detail: phrase + inParentheses(figures)})
	}
	if want := l.request.members(); want > 1 && members < want {
		out = append(out, &fleetv1.FilterCount{Filter: "gang", Nodes: int32(len(seen.fit)), Detail: fmt.Sprintf("would take one member alone, but only %d of %d members find a node", members, want)})
	}
	return out
}

// summary says in one line why too few nodes fit. When it gets too long, figures are left out where the
// fewest nodes are concerned.
func (l *look) summary(seen *removed, members int) string {
	pool := l.request.Pool
	if seen.total == 0 {
		return fmt.Sprintf("pool %q has no nodes", pool)
	}
	head := fmt.Sprintf("%d of %d %s of pool %q fit: ", len(seen.fit), seen.total, plural(seen.total, "node", "nodes"), pool)
	if want := l.request.members(); want > 1 {
		head = fmt.Sprintf("%d of %d members find a node in pool %q of %d %s: ", members, want, pool, seen.total, plural(seen.total, "node", "nodes"))
	}
	filters := slices.Sorted(maps.Keys(seen.by))
	phrases, figures := make([]string, len(filters)), make([]string, len(filters))
	order := make([]int, len(filters))
	size := len(head)
	for i, h := range filters {
		phrase, detail := l.tell(h, seen.by[h])
		phrases[i], figures[i], order[i] = fmt.Sprintf("%d %s", len(seen.by[h]), phrase), inParentheses(detail), i
		size += len(phrases[i]) + len(figures[i]) + len(", ")
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(seen.by[filters[a]]), len(seen.by[filters[b]])) })
	for _, i := range order {
		if size > maxSummary {
			size -= len(figures[i])
			figures[i] = ""
		}
	}
	left := 0
	for _, i := range order {
		if size > maxSummary-len(", 99999 would take one alone, 99999 for other reasons") {
			size -= len(phrases[i]) + len(", ")
			left += len(seen.by[filters[i]])
			phrases[i] = ""
		}
	}
	var parts []string
	for i := range phrases {
		if phrases[i] != "" {
			parts = append(parts, phrases[i]+figures[i])
		}
	}
	if fit := len(seen.fit); fit > 0 && l.request.members() > 1 {
		parts = append(parts, fmt.Sprintf("%d would take one alone", fit))
	}
	if left > 0 {
		parts = append(parts, fmt.Sprintf("%d for other reasons", left))
	}
	return head + strings.Join(parts, ", ")
}

// nearMisses are the nodes that came closest.
func (l *look) nearMisses(seen *removed) (out []*fleetv1.NearMiss) {
	type miss struct {
		judged
		by float64
	}
	var best []miss
	for _, j := range seen.all {
		if j.not == 0 {
			continue
		}
		m := miss{j, l.distance(j.node, j.not)}
		if len(best) == maxNearMisses && m.by >= best[len(best)-1].by {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, m.by, func(a miss, by float64) int {
			if a.by <= by {
				return -1
			}
			return 1
		})
		best = slices.Insert(best, at, m)
		best = best[:min(len(best), maxNearMisses)]
	}
	for _, m := range best {
		out = append(out, &fleetv1.NearMiss{Node: m.node.name, Missing: l.missing(m.node, m.not)})
	}
	return out
}

// distance is how far the node is from taking the request: what is short by its share, what is closed by
// more, and what no waiting changes by the most.
func (l *look) distance(n *node, h hurdle) float64 {
	r, d := l.request, n.short(l.request)
	share := func(have int) float64 { return 1 - float64(have)/float64(max(r.devices(), 1)) }
	for ; h != 0; h &^= h.first() {
		switch f := h.first(); f {
		case inDevices:
			d += share(n.free.and(l.of(n).fit.class).count())
		case inDomain:
			d += share(l.inDomain(n))
		case inKind:
			d += 100 + share(l.of(n).kin.count())
		case inProfile:
			d += 100 + share(l.of(n).fit.class.count())
		case inArch, inMounts, inLabels, inNames:
			d += 100
		case inDrain, inCordon, inReach, inHeld:
			d += 10
		case inApart, inSpread, inKept:
			d++
		}
	}
	return d
}

// explain says why too few of the nodes, which are of no index, could take the request.
func explain(nodes []*node, r *Request) string {
	l := newLook(r)
	seen := l.judge(nodes)
	return l.summary(seen, len(seen.fit))
}
