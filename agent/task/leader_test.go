package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// lease is a chunk in the hands of an instance.
type lease struct {
	instance string
	chunk    *fleetv1.Chunk
	ask      int64 // where it is asked to end; 0 for where it does
}

// leader is a scheduler that leases items, commits what was packed and asks for manifests, at once.
type leader struct {
	mu         sync.Mutex
	setup      *fleetv1.TaskSetup
	items      int64
	size       int64 // of chunks
	seal       int   // chunks of a manifest, unless nothing is left
	tasks      map[string]string
	leases     map[string]*lease // by attempt
	committed  []string          // attempt by item
	publishing map[string]*lease
	unsealed   map[string][]*fleetv1.Chunk // by task
	sealed     []*fleetv1.Manifest
	numbers    map[string]int32
	attempts   int
	stop       bool
	away       bool
	last       map[string]*fleetv1.ExchangeTaskRequest
	refused    int  // packs of items that were committed
	again      bool // items whose packs are lost are run again
}

func newLeader(setup *fleetv1.TaskSetup, items int64) *leader {
	return &leader{
		setup: setup, items: items, size: 20, seal: 3, tasks: map[string]string{}, leases: map[string]*lease{}, committed: make([]string, items),
		publishing: map[string]*lease{}, unsealed: map[string][]*fleetv1.Chunk{}, numbers: map[string]int32{}, last: map[string]*fleetv1.ExchangeTaskRequest{},
	}
}

func (l *leader) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := 0
	for _, attempt := range l.committed {
		if attempt == "" {
			left++
		}
	}
	return fmt.Sprintf("%d items left, %d leased, %d publishing, %d unsealed, %d sealed", left, len(l.leases), len(l.publishing), len(l.unsealed), len(l.sealed))
}

func (l *leader) completed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.Contains(l.committed, "") && len(l.unsealed) == 0 && len(l.sealed) == 0
}

// with changes the leader.
func (l *leader) with(change func(l *leader)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// lastOf answers what an instance told last.
func (l *leader) lastOf(instance string) *fleetv1.ExchangeTaskRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[instance]
}

func (l *leader) exchange(_ context.Context, req *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return nil, errors.New("no scheduler is connected")
	}
	id := req.GetInstanceId()
	l.last[id] = req
	if l.tasks[id] == "" {
		l.tasks[id] = fmt.Sprintf("t%d", len(l.tasks))
	}
	resp := &fleetv1.ExchangeTaskResponse{Task: l.tasks[id], Stop: l.stop}
	if req.GetSetupVersion() != l.setup.GetVersion() {
		resp.Setup = proto.CloneOf(l.setup)
	}
	told := map[string]bool{}
	for _, tc := range req.GetChunks() {
		told[tc.GetChunk().GetAttempt()] = true
		if out := l.answerLocked(id, tc); out != nil {
			resp.Chunks = append(resp.Chunks, out)
		}
	}
	for attempt, le := range l.leases {
		if le.instance == id && !told[attempt] {
			delete(l.leases, attempt)
		}
	}
	l.writtenLocked(req.GetWritten())
	if l.again {
		l.loseLocked(req.GetLost())
	}
	if req.GetRoom() > 0 && !l.stop && !req.GetLeaving() {
		if c := l.leaseLocked(id); c != nil {
			resp.Chunks = append(resp.Chunks, &fleetv1.TaskChunk{Chunk: c, State: fleetv1.ChunkRunning})
		}
	}
	l.sealLocked()
	for _, m := range l.sealed {
		if !req.GetLeaving() {
			resp.Manifests = append(resp.Manifests, m)
		}
	}
	return resp, nil
}

func (l *leader) answerLocked(id string, tc *fleetv1.TaskChunk) *fleetv1.TaskChunk {
	attempt := tc.GetChunk().GetAttempt()
	le := l.leases[attempt]
	switch tc.GetState() {
	case fleetv1.ChunkRunning:
		if le == nil || le.instance != id {
			return nil
		}
		le.chunk.To = min(le.chunk.To, tc.GetChunk().GetTo())
		c := proto.CloneOf(le.chunk)
		if le.ask > 0 {
			c.To = min(c.To, le.ask)
		}
		return &fleetv1.TaskChunk{Chunk: c, State: fleetv1.ChunkRunning}
	case fleetv1.ChunkPacked:
		if p := l.publishing[attempt]; p != nil {
			return &fleetv1.TaskChunk{Chunk: p.chunk, State: fleetv1.ChunkPublishing}
		}
		delete(l.leases, attempt)
		c := tc.GetChunk()
		if le != nil && c.GetTask() != le.chunk.GetTask() || c.GetFrom() >= c.GetTo() || c.GetSuccessful()+c.GetFailed() != c.GetTo()-c.GetFrom() {
			panic(fmt.Sprintf("packed: %v", tc))
		}
		if slices.ContainsFunc(l.committed[c.GetFrom():c.GetTo()], func(a string) bool { return a != "" }) {
			l.refused++
			return nil
		}
		for n := c.GetFrom(); n < c.GetTo(); n++ {
			l.committed[n] = attempt
		}
		l.publishing[attempt] = &lease{instance: id, chunk: c}
		l.unsealed[c.GetTask()] = append(l.unsealed[c.GetTask()], c)
		return &fleetv1.TaskChunk{Chunk: c, State: fleetv1.ChunkPublishing}
	case fleetv1.ChunkPublished:
		delete(l.publishing, attempt)
	}
	return nil
}

func (l *leader) writtenLocked(written []*fleetv1.Manifest) {
	for _, w := range written {
		l.sealed = slices.DeleteFunc(l.sealed, func(m *fleetv1.Manifest) bool {
			return m.GetTask() == w.GetTask() && m.GetNumber() == w.GetNumber() && m.GetVersion() == w.GetVersion()
		})
	}
}

// loseLocked takes chunks out of the manifests that are to be written.
func (l *leader) loseLocked(lost []string) {
	for i, m := range l.sealed {
		kept := slices.DeleteFunc(slices.Clone(m.GetChunks()), func(c *fleetv1.Chunk) bool { return slices.Contains(lost, c.GetAttempt()) })
		if len(kept) < len(m.GetChunks()) {
			l.sealed[i] = &fleetv1.Manifest{Task: m.GetTask(), Number: m.GetNumber(), Version: m.GetVersion() + 1, Chunks: kept}
		}
	}
	for n, attempt := range l.committed {
		if slices.Contains(lost, attempt) {
			l.committed[n] = ""
			delete(l.publishing, attempt)
		}
	}
}

// leaseLocked leases what is free first.
func (l *leader) leaseLocked(id string) *fleetv1.Chunk {
	taken := func(n int64) bool {
		if l.committed[n] != "" {
			return true
		}
		for _, le := range l.leases {
			if le.chunk.GetFrom() <= n && n < le.chunk.GetTo() {
				return true
			}
		}
		return false
	}
	from := int64(0)
	for from < l.items && taken(from) {
		from++
	}
	to := from
	for to < l.items && to < from+l.size && !taken(to) {
		to++
	}
	if from == to {
		return nil
	}
	l.attempts++
	c := &fleetv1.Chunk{From: from, To: to, Task: l.tasks[id], Attempt: fmt.Sprintf("a%d", l.attempts)}
	l.leases[c.Attempt] = &lease{instance: id, chunk: c}
	return c
}

func (l *leader) sealLocked() {
	idle := !slices.Contains(l.committed, "") || l.stop
	for task, chunks := range l.unsealed {
		if len(chunks) >= l.seal || idle && len(l.leases) == 0 {
			l.sealed = append(l.sealed, &fleetv1.Manifest{Task: task, Number: l.numbers[task], Chunks: chunks})
			l.numbers[task]++
			delete(l.unsealed, task)
		}
	}
}
