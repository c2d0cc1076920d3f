package reconcile

import (
	"container/heap"
	"time"
)

// agenda holds when names are to be looked at again, each once and at its earliest time. The zero agenda is empty.
type agenda struct {
	line  appointments
	times map[string]time.Time
}

// at puts a name down for a time, or an earlier one that it is down for already. A zero time is none.
func (a *agenda) at(name string, t time.Time) {
	if old, ok := a.times[name]; t.IsZero() || ok && !t.Before(old) {
		return
	}
	if a.times == nil {
		a.times = map[string]time.Time{}
	}
	a.times[name] = t
	heap.Push(&a.line, appointment{name, t})
}

// drop forgets a name.
func (a *agenda) drop(name string) { delete(a.times, name) }

// next is the earliest time; zero when there is none.
func (a *agenda) next() time.Time {
	for len(a.line) > 0 {
		if first := a.line[0]; a.times[first.name].Equal(first.time) {
			return first.time
		}
		heap.Pop(&a.line) // it was dropped, or is down for another time
	}
	return time.Time{}
}

// due takes the names whose time has come.
func (a *agenda) due(now time.Time, take func(name string)) {
	for t := a.next(); !t.IsZero() && !now.Before(t); t = a.next() {
		name := a.line[0].name
		heap.Pop(&a.line)
		delete(a.times, name)
		take(name)
	}
}

type appointment struct {
	name string
	time time.Time
}

// appointments are a heap by time, those of one time by name.
type appointments []appointment

func (a *appointments) Len() int      { return len(*a) }
func (a *appointments) Swap(i, j int) { (*a)[i], (*a)[j] = (*a)[j], (*a)[i] }
func (a *appointments) Push(x any)    { *a = append(*a, x.(appointment)) }

func (a *appointments) Less(i, j int) bool {
	x, y := (*a)[i], (*a)[j]
	if c := x.time.Compare(y.time); c != 0 {
		return c < 0
	}
	return x.name < y.name
}

func (a *appointments) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}
