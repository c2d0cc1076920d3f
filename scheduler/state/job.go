package state

import (
	"fmt"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// WholeCommit is the Part of a Rejection that is about no chunk of a JobCommit.
const WholeCommit = -1

// jobCommit applies each chunk, or refuses it, and the rest as far as it isn't done yet.
func (a *applying) jobCommit(c *fleetv1.JobCommit) []Rejection {
	stored := get(a.t.jobLedgers, c.GetJobId()).GetJobLedger()
	if stored == nil {
		return []Rejection{{Part: WholeCommit, Reason: RejectNotFound, Detail: fmt.Sprintf("job %s does not exist", c.GetJobId())}}
	}
	l := successor(stored)
	rejections := l.list(c)
	for i, chunk := range c.GetChunks() {
		if reason, detail := l.commit(chunk); reason != "" {
			rejections = append(rejections, Rejection{Part: i, Reason: reason, Detail: detail})
		}
	}
	for _, task := range c.GetSeal() {
		l.seal(task)
	}
	for _, m := range c.GetWritten() {
		l.wrote(m)
	}
	for _, attempt := range c.GetLost() {
		l.lose(attempt)
	}
	if c.GetFailure() != "" {
		l.Failure, l.changed = c.GetFailure(), true
	}
	if !l.changed {
		return rejections
	}
	a.put(ObjectOf(l.JobLedger))
	for _, e := range c.GetEvents() {
		a.event(e)
	}
	return rejections
}

// nextLedger is a ledger on its way into the store. What it lists is shared with the stored one until it is changed.
type nextLedger struct {
	*fleetv1.JobLedger
	changed bool
}

func successor(l *fleetv1.JobLedger) *nextLedger {
	return &nextLedger{JobLedger: &fleetv1.JobLedger{
		Meta: copyMeta(l.GetMeta()), Parts: l.GetParts(), Listed: l.GetListed(), Position: l.GetPosition(), Items: l.GetItems(), Again: l.GetAgain(),
		Committed: l.GetCommitted(), Successful: l.GetSuccessful(), Failed: l.GetFailed(), InputBytes: l.GetInputBytes(), OutputBytes: l.GetOutputBytes(),
		Unsealed: l.GetUnsealed(), Sealed: l.GetSealed(), Tasks: l.GetTasks(), Failure: l.GetFailure(),
	}}
}

// list takes in what a lister has found, all or nothing of it: who comes late lists what is listed.
func (l *nextLedger) list(c *fleetv1.JobCommit) []Rejection {
	if len(c.GetParts()) == 0 && !c.GetListed() {
		return nil
	}
	refused := func(reason RejectReason, format string, args ...any) []Rejection {
		return []Rejection{{Part: WholeCommit, Reason: reason, Detail: fmt.Sprintf(format, args...)}}
	}
	if l.Listed {
		return refused(RejectRevision, "the input is listed")
	}
	items := l.Items
	for _, part := range c.GetParts() {
		if part.GetItems() <= 0 || part.GetObject() == "" {
			return refused(RejectInvalid, "a part of the input has neither items nor a name")
		}
		if part.GetFrom() != items {
			return refused(RejectRevision, "a part of the input begins at item %d, and %d are listed", part.GetFrom(), items)
		}
		items += part.GetItems()
	}
	for _, part := range c.GetParts() {
		if part.GetAgain() {
			l.Again += part.GetItems()
			l.Failed -= part.GetItems()
		}
	}
	l.Parts = slices.Concat(l.Parts, c.GetParts())
	l.Items, l.Listed, l.Position, l.changed = items, c.GetListed(), c.GetPosition(), true
	return nil
}

// commit is where two tasks with the same items find out whose count.
func (l *nextLedger) commit(c *fleetv1.Chunk) (RejectReason, string) {
	committed := Ranges(l.Committed)
	switch {
	case c.GetFrom() < 0 || c.GetFrom() >= c.GetTo() || c.GetTo() > l.Items:
		return RejectInvalid, fmt.Sprintf("items %d to %d are not among the %d that are listed", c.GetFrom(), c.GetTo(), l.Items)
	case c.GetTask() == "" || c.GetAttempt() == "" || c.GetSuccessful() < 0 || c.GetFailed() < 0 || c.GetSuccessful()+c.GetFailed() != c.GetTo()-c.GetFrom():
		return RejectInvalid, fmt.Sprintf("items %d to %d are not all of somebody and accounted for", c.GetFrom(), c.GetTo())
	case committed.Overlaps(c.GetFrom(), c.GetTo()):
		return RejectExists, fmt.Sprintf("some of items %d to %d are committed", c.GetFrom(), c.GetTo())
	}
	l.Committed = committed.With(c.GetFrom(), c.GetTo())
	l.Successful += c.GetSuccessful()
	l.Failed += c.GetFailed()
	l.InputBytes += c.GetInputBytes()
	l.OutputBytes += c.GetOutputBytes()
	l.Unsealed = append(slices.Clip(l.Unsealed), c)
	l.changed = true
	return "", ""
}

// seal makes a manifest of what the task has unsealed.
func (l *nextLedger) seal(task string) {
	var mine, others []*fleetv1.Chunk
	for _, c := range l.Unsealed {
		if c.GetTask() == task {
			mine = append(mine, c)
		} else {
			others = append(others, c)
		}
	}
	if len(mine) == 0 {
		return
	}
	number := int32(0)
	i := slices.IndexFunc(l.Tasks, func(t *fleetv1.TaskManifests) bool { return t.GetTask() == task })
	l.Tasks = slices.Clone(l.Tasks)
	if i < 0 {
		l.Tasks = append(l.Tasks, &fleetv1.TaskManifests{Task: task, Manifests: 1})
	} else {
		number = l.Tasks[i].GetManifests()
		l.Tasks[i] = &fleetv1.TaskManifests{Task: task, Manifests: number + 1}
	}
	l.Unsealed, l.Sealed, l.changed = others, append(slices.Clip(l.Sealed), &fleetv1.Manifest{Task: task, Number: number, Chunks: mine}), true
}

// wrote forgets a manifest that stands as it is now.
func (l *nextLedger) wrote(m *fleetv1.Manifest) {
	i := slices.IndexFunc(l.Sealed, func(s *fleetv1.Manifest) bool {
		return s.GetTask() == m.GetTask() && s.GetNumber() == m.GetNumber() && s.GetVersion() == m.GetVersion()
	})
	if i >= 0 {
		l.Sealed, l.changed = slices.Delete(slices.Clone(l.Sealed), i, i+1), true
	}
}

// lose takes back a commit whose results are gone, unless a manifest that stands has them. A manifest that is left with nothing
// keeps its number and is written empty: it may have been written before.
func (l *nextLedger) lose(attempt string) {
	is := func(c *fleetv1.Chunk) bool { return c.GetAttempt() == attempt }
	if i := slices.IndexFunc(l.Unsealed, is); i >= 0 {
		l.takeBack(l.Unsealed[i])
		l.Unsealed = slices.Delete(slices.Clone(l.Unsealed), i, i+1)
		return
	}
	for n, m := range l.Sealed {
		if i := slices.IndexFunc(m.GetChunks(), is); i >= 0 {
			l.takeBack(m.GetChunks()[i])
			l.Sealed = slices.Clone(l.Sealed)
			l.Sealed[n] = &fleetv1.Manifest{Task: m.GetTask(), Number: m.GetNumber(), Version: m.GetVersion() + 1,
				Chunks: slices.Delete(slices.Clone(m.GetChunks()), i, i+1)}
			return
		}
	}
}

func (l *nextLedger) takeBack(c *fleetv1.Chunk) {
	l.Committed = Ranges(l.Committed).Without(c.GetFrom(), c.GetTo())
	l.Successful -= c.GetSuccessful()
	l.Failed -= c.GetFailed()
	l.InputBytes -= c.GetInputBytes()
	l.OutputBytes -= c.GetOutputBytes()
	l.changed = true
}

// VersionOfJob is what a service that places the tasks of a job asks for.
func VersionOfJob(s *fleetv1.JobSpec) *fleetv1.ServiceVersion {
	return &fleetv1.ServiceVersion{
		Model: s.GetModel(), ModelVersion: s.GetModelVersion(), Weight: 100, Flavor: s.GetFlavor(), Instances: s.GetInstances(), Env: s.GetEnv(),
		TimeoutMinutes: s.GetTimeoutMinutes(), Mounts: s.GetMounts(), Limits: s.GetLimits(), Placement: s.GetPlacement(), Priority: s.GetPriority(),
		Nodes: s.GetNodes(), Preemptible: true,
	}
}

// JobComplete says that every item is in a manifest that stands.
func JobComplete(l *fleetv1.JobLedger) bool {
	return l.GetListed() && l.GetFailure() == "" && len(l.GetUnsealed())+len(l.GetSealed()) == 0 && Ranges(l.GetCommitted()).Items() == l.GetItems()
}

// JobEnded says whether the last run that was asked for is over.
func JobEnded(j *fleetv1.Job) bool {
	switch j.GetStatus().GetState() {
	case fleetv1.JobCompleted, fleetv1.JobFailed, fleetv1.JobStopped:
		return j.GetStatus().GetRun() == j.GetDesired().GetRun()
	}
	return false
}

func (v view) Job(project, nameOrID string) *fleetv1.Job {
	if o, ok := v.t.jobs.Get(JobKey(project, nameOrID).Key); ok {
		return o.GetJob()
	}
	if j := v.JobByID(nameOrID); j.GetMeta().GetProject() == project {
		return j
	}
	return nil
}

func (v view) JobByID(id string) *fleetv1.Job {
	if key, ok := v.t.jobKeys.Get(id); ok {
		return get(v.t.jobs, key).GetJob()
	}
	return nil
}

func (v view) Jobs(project string) []*fleetv1.Job {
	return list(v.t.jobs, (*fleetv1.Object).GetJob, inProject(project))
}

func (v view) JobLedger(jobID string) *fleetv1.JobLedger {
	return get(v.t.jobLedgers, jobID).GetJobLedger()
}

func (v view) StorageKey(project, scheme string) *fleetv1.StorageKey {
	return get(v.t.storageKeys, StorageKeyKey(project, scheme).Key).GetStorageKey()
}

func (v view) StorageKeys(project string) []*fleetv1.StorageKey {
	return list(v.t.storageKeys, (*fleetv1.Object).GetStorageKey, inProject(project))
}

// inProject is how the store keys of a project's objects begin; empty for every project's.
func inProject(project string) string {
	if project == "" {
		return ""
	}
	return project + "/"
}
