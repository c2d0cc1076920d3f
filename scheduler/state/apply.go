package state

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// CommandVersion is the newest Command.introduced that this version of the program can apply. Write,
// Plan and Report came with version 1, Reports with version 2, join tokens, certificates and
// schedulers in a Write with version 3, tenants and what credentials they have, and what a Write needs, with version 4,
// jobs, JobCommit and the scope of a request ID with version 5.
const CommandVersion = 5

// Introduced is the command version that introduced the command's type of op, or of the objects that it writes; 0 for
// one that this version doesn't know. Proposers put it into Command.introduced.
func Introduced(cmd *fleetv1.Command) uint32 {
	version := opIntroduced(cmd)
	if version > 0 && cmd.GetRequestScope() != "" {
		version = max(version, 5)
	}
	return version
}

func opIntroduced(cmd *fleetv1.Command) uint32 {
	switch op := cmd.GetOp().(type) {
	case *fleetv1.Command_Write:
		version := uint32(1)
		if len(op.Write.GetNeeds()) > 0 {
			version = 4
		}
		for _, m := range op.Write.GetMutations() {
			version = max(version, kindIntroduced(m.GetDelete().GetKind()), kindIntroduced(KeyOf(m.GetPut()).Kind))
			if t := m.GetPut().GetToken(); t.GetUser() != "" || len(t.GetScopes()) > 0 || t.GetExpireTime() != nil || t.GetLastUsedTime() != nil {
				version = max(version, 4) // an older program lets the token in for ever
			}
			if m.GetPut().GetService().GetSpec().GetJobId() != "" {
				version = 5 // an older program shows it to clients
			}
		}
		return version
	case *fleetv1.Command_Plan, *fleetv1.Command_Report:
		return 1
	case *fleetv1.Command_Reports:
		return 2
	case *fleetv1.Command_JobCommit:
		return 5
	}
	return 0
}

func kindIntroduced(kind string) uint32 {
	switch kind {
	case fleetv1.KindJoinToken, fleetv1.KindCertificate, fleetv1.KindScheduler:
		return 3
	case fleetv1.KindAccount, fleetv1.KindProject, fleetv1.KindUser, fleetv1.KindKey, fleetv1.KindApp:
		return 4
	case fleetv1.KindJob, fleetv1.KindJobLedger, fleetv1.KindStorageKey:
		return 5
	}
	return 1
}

// Request IDs are remembered for requestAgeLimit by the commands' own times, and at most
// requestCountLimit of them, the oldest being forgotten first.
const (
	requestAgeLimit   = 24 * time.Hour
	requestCountLimit = 100_000
)

// Apply applies one command at its Raft index. It reads no clock and makes no choice: the same commands
// give the same store on every scheduler. It answers what happened, and the events to keep, which have
// their IDs. cmd is not changed, but the store may keep parts of it: the caller must not write to it
// afterwards.
func (s *Store) Apply(index uint64, cmd *fleetv1.Command) (Result, []*fleetv1.Event) {
	applied := s.ApplyAll([]Indexed{{index, cmd}})
	return applied[0].Result, applied[0].Events
}

// Indexed is a command with its Raft index.
type Indexed struct {
	Index   uint64
	Command *fleetv1.Command
}

// Applied is what a command did.
type Applied struct {
	Result Result
	Events []*fleetv1.Event
}

// ApplyAll applies commands one after the other, as Apply does. Views see the last of them, or none, so that
// the tables are copied once.
func (s *Store) ApplyAll(commands []Indexed) []Applied {
	s.writing.Lock()
	defer s.writing.Unlock()
	t := s.current.Load().copy()
	out := make([]Applied, len(commands))
	var changed []ChangeSet
	for i, c := range commands {
		a := s.begin(t, c)
		if !allOrNothing(c.Command) {
			a.t = t.copy()
		}
		result := a.command(c.Command)
		if len(result.Rejections) > 0 && len(a.changes) == 0 {
			a = s.begin(t, c) // a refused Write has left half of itself in its own tables
		}
		if c.Command.GetRequestId() != "" && !result.Repeated && (len(a.changes) > 0 || len(result.Rejections) == 0) {
			a.remember(c.Command)
		}
		t = a.t
		t.index = c.Index
		if v := c.Command.GetIntroduced(); v <= CommandVersion { // a newer one is refused
			t.introduced = max(t.introduced, v)
		}
		if len(a.changes) > 0 {
			changed = append(changed, ChangeSet{Index: c.Index, Changes: a.changes})
		}
		out[i] = Applied{result, a.events}
	}
	s.current.Store(t)
	for _, set := range changed {
		s.feeds.publish(set)
	}
	return out
}

// allOrNothing says that a command changes no table before it is known that it isn't refused.
func allOrNothing(cmd *fleetv1.Command) bool {
	switch op := cmd.GetOp().(type) {
	case *fleetv1.Command_Write:
		return len(op.Write.GetMutations()) <= 1
	case *fleetv1.Command_Report, *fleetv1.Command_Reports:
		return true
	}
	return false
}

func (s *Store) begin(t *tables, c Indexed) *applying {
	s.writers++
	t.writer = s.writers
	return &applying{view: view{t}, alike: &s.alike, writer: s.writers, index: c.Index, time: c.Command.GetTime()}
}

// applying is one command on its way into the store. Its tables are its own.
type applying struct {
	view
	alike   *alike
	writer  uint64 // no other has this number, not even the same command's next try
	index   uint64
	time    *timestamppb.Timestamp
	changes []Change
	touched map[Key]int // places of the objects in changes, when they are many
	events  []*fleetv1.Event
}

func (a *applying) command(cmd *fleetv1.Command) Result {
	result := Result{Index: a.index}
	if known := Introduced(cmd); known == 0 || cmd.GetIntroduced() > CommandVersion {
		result.Rejections = []Rejection{{Reason: RejectUnknownCommand, Detail: fmt.Sprintf(
			"the command is of a type that came with command version %d; this scheduler knows up to %d",
			cmd.GetIntroduced(), CommandVersion)}}
		return result
	}
	if id := cmd.GetRequestId(); id != "" {
		r, same := SameRequest(a, cmd.GetRequestScope(), id, cmd.GetRequestDigest())
		switch {
		case r == nil || a.forgotten(r):
		case same:
			return Result{Index: r.GetIndex(), Repeated: true}
		default:
			result.Rejections = []Rejection{{Reason: RejectRequestBody, Detail: fmt.Sprintf(
				"request ID %q was used for another request", id)}}
			return result
		}
	}
	switch op := cmd.GetOp().(type) {
	case *fleetv1.Command_Write:
		if r := a.write(op.Write); r != nil {
			result.Rejections = []Rejection{*r}
			a.changes, a.events = nil, nil
		}
	case *fleetv1.Command_Plan:
		result.Rejections = a.plan(op.Plan)
	case *fleetv1.Command_Report:
		a.report(op.Report)
	case *fleetv1.Command_Reports:
		for _, r := range op.Reports.GetReports() {
			a.report(r)
		}
	case *fleetv1.Command_JobCommit:
		result.Rejections = a.jobCommit(op.JobCommit)
	}
	return result
}

// SameRequest is what is remembered of a request ID in a scope, or nil, and whether that was the request of this digest.
// A record without a scope is an older program's: it counts for who sends the same request again, and for nobody else.
func SameRequest(v ReadView, scope, id string, digest []byte) (r *fleetv1.RequestRecord, same bool) {
	r = v.Request(scope, id)
	same = bytes.Equal(r.GetDigest(), digest)
	if !same && r.GetScope() != scope {
		return nil, false
	}
	return r, same
}

// forgotten says that a record is too old to count, whether it has been pruned or not.
func (a *applying) forgotten(r *fleetv1.RequestRecord) bool {
	return r.GetTime().AsTime().Before(a.time.AsTime().Add(-requestAgeLimit))
}

// remember stores the command's request ID and prunes those that are too old or too many.
func (a *applying) remember(cmd *fleetv1.Command) {
	r := &fleetv1.RequestRecord{Id: cmd.GetRequestId(), Scope: cmd.GetRequestScope(), Digest: cmd.GetRequestDigest(), Time: a.time, Index: a.index}
	if old, ok := a.t.requests.Set(requestKey(r.GetScope(), r.GetId()), r); ok {
		a.t.requestsByAge.Delete(requestAge(old))
	}
	a.t.requestsByAge.Set(requestAge(r), r)
	for {
		age, oldest, _ := a.t.requestsByAge.Min()
		if a.t.requests.Len() <= requestCountLimit && !a.forgotten(oldest) {
			return
		}
		a.t.requests.Delete(requestKey(oldest.GetScope(), oldest.GetId()))
		a.t.requestsByAge.Delete(age)
	}
}

// put stores the object, of which nobody else may hold the meta, with this command's revision and time.
func (a *applying) put(o *fleetv1.Object) {
	meta := metaOf(o)
	meta.Revision, meta.UpdateTime = a.index, a.time
	a.set(KeyOf(o), o)
}

func (a *applying) delete(key Key) { a.set(key, nil) }

func (a *applying) set(key Key, o *fleetv1.Object) {
	before := a.t.set(key, o)
	if key.Kind == fleetv1.KindInstance {
		a.use(before.GetInstance(), o.GetInstance())
	}
	a.changed(key, before, o)
}

// expect makes room for so many changes and events of a command that has made none yet.
func (a *applying) expect(changes, events int) {
	a.changes, a.events = make([]Change, 0, changes), make([]*fleetv1.Event, 0, events)
	if changes > fewChanges {
		a.touched = make(map[Key]int, changes)
	}
}

// changed records a change, one per object, and moves on the generation of the assignment set that the
// change belongs to.
func (a *applying) changed(key Key, before, after *fleetv1.Object) {
	if i := a.change(key); i >= 0 {
		a.changes[i].After = after
	} else {
		a.changes = append(a.changes, Change{Key: key, Before: before, After: after})
	}
	if key.Kind == fleetv1.KindInstance {
		for _, node := range assignmentsChanged(before.GetInstance(), after.GetInstance()) {
			a.bump(node)
		}
	}
}

// fewChanges are looked at one by one: a map costs more.
const fewChanges = 8

// change answers the place of an object's change, or -1.
func (a *applying) change(key Key) int {
	if len(a.changes) <= fewChanges {
		return slices.IndexFunc(a.changes, func(c Change) bool { return c.Key == key })
	}
	if a.touched == nil {
		a.touched = map[Key]int{}
	}
	for i := len(a.touched); i < len(a.changes); i++ {
		a.touched[a.changes[i].Key] = i
	}
	if i, ok := a.touched[key]; ok {
		return i
	}
	return -1
}

// assignmentsChanged names the nodes whose assignment sets differ by the change of one instance.
func assignmentsChanged(before, after *fleetv1.Instance) []string {
	from, to := before.GetSpec().GetNode(), after.GetSpec().GetNode()
	if before != nil && after != nil && from == to {
		if proto.Equal(before.GetSpec(), after.GetSpec()) && proto.Equal(before.GetDesired(), after.GetDesired()) {
			return nil
		}
		return []string{to}
	}
	var nodes []string
	if from != "" {
		nodes = append(nodes, from)
	}
	if to != "" {
		nodes = append(nodes, to)
	}
	return nodes
}

func (a *applying) bump(node string) {
	stored := get(a.t.nodes, node).GetNode()
	if stored == nil || stored.GetStatus().GetAssignmentGeneration() == a.index {
		return
	}
	n := &fleetv1.Node{Meta: copyMeta(stored.GetMeta()), Spec: stored.GetSpec(), Facts: stored.GetFacts(), Status: copyStatus(stored.GetStatus())}
	n.Status.AssignmentGeneration = a.index
	a.put(ObjectOf(n))
}

// event keeps an event under the next ID of this command.
func (a *applying) event(e *fleetv1.Event) {
	e = copyEvent(e)
	e.Id = strconv.FormatUint(a.index, 10) + "-" + strconv.Itoa(len(a.events)+1)
	if e.Time == nil {
		e.Time = a.time
	}
	a.events = append(a.events, e)
}
