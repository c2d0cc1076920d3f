package runtimetest

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/runtime"
)

func testWatchEnds(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(h.ctx(t))
	events := h.Runtime.Watch(ctx)
	cancel()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the watch's channel is not closed after its context ended")
		}
	}
}

func testInterruption(t *testing.T, h Harness) {
	h.need(t, Interruption)
	events := h.watch(t)
	s, before := h.serving(t)
	h.Interrupt(t, func() {
		if _, err := h.Runtime.Info(h.ctx(t)); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("info while away: %v, want ErrUnavailable", err)
		}
		if _, err := h.Runtime.Status(h.ctx(t), s.ID); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("status while away: %v, want ErrUnavailable: unknown is never absent", err)
		}
		if _, err := h.Runtime.List(h.ctx(t)); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("list while away: %v, want ErrUnavailable", err)
		}
		if _, err := h.Runtime.Images(h.ctx(t)); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("images while away: %v, want ErrUnavailable", err)
		}
	})
	ctx := h.ctx(t)
	for {
		select {
		case <-ctx.Done():
			t.Fatal("no resync event after the runtime came back")
		case ev := <-events:
			if ev.Kind != runtime.EventResync {
				continue
			}
			st, err := h.Runtime.Status(ctx, s.ID)
			if errors.Is(err, runtime.ErrUnavailable) {
				continue // a resync of the going; the one of the coming back follows
			}
			if err != nil || st.State != runtime.StateRunning || st.Pid != before.Pid {
				t.Fatalf("after the interruption: %+v, %v; want PID %d running", st, err, before.Pid)
			}
			return
		}
	}
}

func testRepairNetwork(t *testing.T, h Harness) {
	h.serving(t)
	if _, err := h.Runtime.RepairNetwork(h.ctx(t)); err != nil {
		t.Fatalf("repair: %v", err)
	}
	if n, err := h.Runtime.RepairNetwork(h.ctx(t)); err != nil || n != 0 {
		t.Fatalf("repair of a whole network: %d rules, %v; want 0", n, err)
	}
}

func testCollectKeeps(t *testing.T, h Harness) {
	h.serving(t)
	// A watermark of zero makes any use of the disk too much.
	removed, err := h.Runtime.CollectImages(h.ctx(t), 0, 0, func(digest string) bool { return digest == h.Digest })
	if err != nil {
		t.Fatalf("collect: %v", err)
	}
	for _, img := range removed {
		if img.Digest == h.Digest {
			t.Fatal("an image that must be kept was removed")
		}
	}
	removed, err = h.Runtime.CollectImages(h.ctx(t), 1.1, 1, func(string) bool { return false })
	if err != nil || len(removed) != 0 {
		t.Fatalf("collect below the watermark removed %v, %v", removed, err)
	}
}

func testImages(t *testing.T, h Harness) {
	h.pulled(t)
	for range 2 { // pulled again, it is still one
		all, err := h.Runtime.Images(h.ctx(t))
		if err != nil {
			t.Fatalf("list images: %v", err)
		}
		times := map[string]int{}
		for _, img := range all {
			times[img.Digest]++
		}
		if times[h.Digest] != 1 || times[h.MissingDigest] != 0 || len(times) != len(all) {
			t.Fatalf("images %v, want %s once", all, h.Digest)
		}
		if all[0].Digest != h.Digest {
			t.Errorf("images %v, want %s first: it was used last", all, h.Digest)
		}
		h.pulled(t)
	}
}

func testConcurrent(t *testing.T, h Harness) {
	h.pulled(t)
	const n = 8
	events := h.watch(t)
	go func() {
		for range events { // the watch must keep up with everybody
		}
	}()
	var wg sync.WaitGroup
	for range n {
		s := h.spec(t)
		wg.Go(func() {
			ctx := h.ctx(t)
			if _, err := h.Runtime.Create(ctx, s); err != nil {
				t.Errorf("create: %v", err)
				return
			}
			if st, err := h.Runtime.Start(ctx, s.ID); err != nil || st.State != runtime.StateRunning {
				t.Errorf("start: %+v, %v", st, err)
				return
			}
			if _, err := h.Runtime.Stats(ctx, s.ID); err != nil {
				t.Errorf("stats: %v", err)
			}
			if err := h.Runtime.Signal(ctx, s.ID, syscall.SIGKILL); err != nil {
				t.Errorf("kill: %v", err)
			}
			if err := h.Runtime.Delete(ctx, s.ID); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := h.Runtime.Status(ctx, s.ID); !errors.Is(err, runtime.ErrNotFound) {
				t.Errorf("status after delete: %v", err)
			}
		})
	}
	wg.Wait()
}
