package sim

import (
	"container/heap"
	"time"
)

// happening is something that will be done at a time. Those of one time are done in the order in which they
// were asked for.
type happening struct {
	at  time.Time
	seq uint64
	do  func()
}

type happenings []happening

func (q *happenings) Len() int { return len(*q) }
func (q *happenings) Less(i, j int) bool {
	a, b := &(*q)[i], &(*q)[j]
	if !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return a.seq < b.seq
}
func (q *happenings) Swap(i, j int) { (*q)[i], (*q)[j] = (*q)[j], (*q)[i] }
func (q *happenings) Push(x any)    { *q = append(*q, x.(happening)) }
func (q *happenings) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = happening{}
	*q = (*q)[:len(*q)-1]
	return last
}

// queue holds what will happen.
type queue struct {
	all happenings
	seq uint64
}

func (q *queue) add(at time.Time, do func()) {
	q.seq++
	heap.Push(&q.all, happening{at, q.seq, do})
}

// next is when the first happening is due; false when there is none.
func (q *queue) next() (time.Time, bool) {
	if len(q.all) == 0 {
		return time.Time{}, false
	}
	return q.all[0].at, true
}

func (q *queue) take() func() { return heap.Pop(&q.all).(happening).do }
