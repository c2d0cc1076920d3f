package member

import (
	"fmt"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// everywhere is the command version that every program that can be a member knows.
const everywhere = 2

// VersionError means that a command was not proposed because a voter couldn't apply it.
type VersionError struct {
	Scheduler  string // its name and ID
	Has, Needs uint32 // command versions
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("scheduler %s knows commands up to version %d, this needs version %d: upgrade it first, or remove it",
		e.Scheduler, e.Has, e.Needs)
}

// Gate refuses a command that a voter doesn't know, with a *VersionError.
func (m *Members) Gate(cmd *fleetv1.Command) error {
	needs := cmd.GetIntroduced()
	if needs <= everywhere {
		return nil
	}
	if least, who := m.least(); least < needs {
		return &VersionError{Scheduler: m.name(who), Has: least, Needs: needs}
	}
	return nil
}

// least is the newest command version that every voter knows, and a voter that knows no newer one.
func (m *Members) least() (version uint32, who string) {
	version, who = m.cfg.Self.GetCommandVersion(), m.id
	view := m.cfg.State.View()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.cfg.Raft.Members() {
		if !r.Voter || r.ID == m.id {
			continue
		}
		has := uint32(everywhere)
		// What it told last counts more than what was written down: it may have been rolled back since.
		if s := m.seen[r.ID]; s != nil && s.answer != nil {
			has = s.answer.GetScheduler().GetCommandVersion()
		} else if stored := view.Scheduler(r.ID); stored != nil {
			has = stored.GetCommandVersion()
		}
		if has < version {
			version, who = has, r.ID
		}
	}
	return version, who
}
