package jobs

import (
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// TestRenamedTask: results lie where the ledger says that a chunk belongs, whatever its task is called by now.
func TestRenamedTask(t *testing.T) {
	w := newWorld(t, 1, 8, 8)
	one := w.start()
	one.speed = 100
	w.call(one, false)
	w.work(one)
	if len(one.chunks) == 0 {
		t.Fatal("nothing was leased")
	}
	for _, tc := range one.chunks {
		tc.Chunk.Task = "7"
	}
	w.call(one, false)
	w.commit(false)
	req := &fleetv1.ExchangeTaskRequest{InstanceId: one.id, Task: one.name}
	for _, tc := range one.chunks {
		if tc.GetState() != fleetv1.ChunkPacked {
			continue // leased since
		}
		c := proto.CloneOf(tc)
		c.Chunk.Task = "7"
		req.Chunks = append(req.Chunks, c)
	}
	publishing := 0
	for _, tc := range w.book.exchange(req, false, w.ready, w.now).GetChunks() {
		if tc.GetState() == fleetv1.ChunkPublishing {
			publishing++
		}
		if tc.GetChunk().GetTask() != "0" {
			t.Errorf("the answer is %v", tc)
		}
	}
	if publishing == 0 || publishing != len(req.GetChunks()) {
		t.Errorf("%d chunks are to be published, of %d", publishing, len(req.GetChunks()))
	}
}

// TestPackedChunkOutlivesItsTask: what was packed is committed, though the instance is gone by then, or was silent.
func TestPackedChunkOutlivesItsTask(t *testing.T) {
	for _, name := range []string{"gone", "silent", "begun anew"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, 8, 8)
			one := w.start()
			one.speed = 100
			w.call(one, false)
			w.work(one)
			w.call(one, false)
			if name == "begun anew" {
				one.chunks = nil
			} else {
				w.book.expire(func(string) bool { return true }, w.now)
			}
			w.check()
			if name != "gone" {
				w.call(one, false)
				w.check()
				if len(one.chunks) == 0 {
					t.Error("its chunks are taken away")
				}
			}
			c := w.book.commit(w.now)
			if len(c.GetChunks()) == 0 {
				t.Fatal("nothing is committed")
			}
			w.commit(false)
			if done := state.Ranges(w.ledger().GetCommitted()).Items(); done == 0 {
				t.Error("nothing is in the ledger")
			}
			w.check()
		})
	}
}
