package member

import "fmt"

// maxVoters: more cost every write and save nobody.
const maxVoters = 5

// standing is how one scheduler of the configuration is, as next sees it.
type standing struct {
	id, name    string
	voter, self bool
	alive, dead bool // neither: unreachable, for less than DeadAfter
	ready       bool // a non-voter that may be promoted
}

// change is one change of the configuration.
type change struct {
	promote, remove string // ID; one of them or none
	why             string
}

// next is what is to be done about the members now, as far as the leader may without being asked.
func next(all []standing, minVoters int) change {
	voters, alive := 0, 0
	var deadVoter, deadSpare, ready *standing
	spares := 0
	for i := range all {
		s := &all[i]
		switch {
		case s.voter:
			voters++
			if s.alive {
				alive++
			}
			if s.dead && deadVoter == nil {
				deadVoter = s
			}
		case s.dead:
			deadSpare = s
		case s.ready:
			spares++
			if ready == nil {
				ready = s
			}
		}
	}
	switch {
	case deadVoter != nil && removable(voters, alive, minVoters):
		return change{remove: deadVoter.id, why: fmt.Sprintf("it is dead, and %d voters are alive without it", alive)}
	case deadVoter != nil && ready != nil:
		return change{promote: ready.id, why: "it takes the place of " + deadVoter.name + ", which is dead"}
	case deadSpare != nil:
		return change{remove: deadSpare.id, why: "it is dead and has no vote"}
	case ready == nil || deadVoter != nil || voters >= maxVoters:
		return change{}
	case voters%2 == 0:
		return change{promote: ready.id, why: fmt.Sprintf("it makes %d voters", voters+1)}
	case spares >= 2:
		return change{promote: ready.id, why: fmt.Sprintf("it and another make %d voters", voters+2)}
	}
	return change{}
}

// removable says whether one that isn't alive may be taken out of so many voters.
func removable(voters, alive, minVoters int) bool {
	return alive >= minVoters && alive >= majority(voters-1)
}

// majority of so many voters.
func majority(voters int) int { return voters/2 + 1 }
