package containerd

import (
	"context"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/drover-fleet/drover/runtime"
)

// maxPending is how many events wait for a watcher before it is told to list instead.
const maxPending = 1024

// hub hands events to every watcher; it never waits for one.
type hub struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	wake    chan struct{}
	pending []runtime.Event // guarded by the hub's lock
}

func (h *hub) send(ev runtime.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if ev.Kind == runtime.EventResync || len(w.pending) >= maxPending {
			// A list shows everything that waited to be told, except who lost a logger.
			kept := w.pending[:0]
			for _, p := range w.pending {
				if p.Kind == runtime.EventLoggerDied && len(kept) < maxPending {
					kept = append(kept, p)
				}
			}
			w.pending = append(kept, runtime.Event{Kind: runtime.EventResync})
		}
		if ev.Kind != runtime.EventResync {
			w.pending = append(w.pending, ev)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (h *hub) loggerDied(id string) {
	h.send(runtime.Event{Kind: runtime.EventLoggerDied, ID: id})
}

// Watch may be called by any number of watchers; a slow one misses nothing that a resync doesn't tell.
func (r *Runtime) Watch(ctx context.Context) <-chan runtime.Event {
	h := r.hub
	w := &watcher{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[*watcher]struct{}{}
	}
	h.watchers[w] = struct{}{}
	h.mu.Unlock()
	out := make(chan runtime.Event)
	go func() { // ends with ctx
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.watchers, w)
			h.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			h.mu.Lock()
			batch := w.pending
			w.pending = nil
			h.mu.Unlock()
			for _, ev := range batch {
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// listen follows containerd's events until ctx ends; after each interruption it tells watchers to list.
func (r *Runtime) listen(ctx context.Context) {
	ctx = r.namespaced(ctx)
	for pause := time.Duration(0); ctx.Err() == nil; {
		heard := r.subscribe(ctx)
		if heard {
			pause = 0
		}
		pause = min(max(2*pause, 20*time.Millisecond), time.Second)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// syncTopic is a topic of our own: an event that we publish and hear shows that the subscription stands.
const syncTopic = "/drover/subscribed"

// subscribe follows one connection until it breaks, and says whether it ever stood.
func (r *Runtime) subscribe(ctx context.Context) (heard bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ns := `namespace==` + r.cfg.Namespace
	envelopes, errs := r.client.EventService().Subscribe(ctx, ns+`,topic=="/tasks/exit"`, ns+`,topic=="/tasks/oom"`, ns+`,topic=="`+syncTopic+`"`)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	if !r.ping(ctx) {
		return false
	}
	for {
		var tick <-chan time.Time
		if !heard {
			tick = again.C
		}
		select {
		case <-ctx.Done():
			return heard
		case err := <-errs:
			r.cfg.Logger.Debug("the subscription to containerd's events ended", "error", err)
			return heard
		case <-tick:
			if !r.ping(ctx) {
				return false
			}
		case e := <-envelopes:
			if e.Topic == syncTopic && !heard {
				heard = true
				r.hub.send(runtime.Event{Kind: runtime.EventResync})
				r.watchLoggers(ctx)
			}
			r.heard(ctx, e)
		}
	}
}

func (r *Runtime) ping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.client.EventService().Publish(ctx, syncTopic, &eventsapi.NamespaceUpdate{Name: r.cfg.Namespace}) == nil
}

// heard tells watchers of a container's end.
func (r *Runtime) heard(ctx context.Context, e *events.Envelope) {
	if e.Topic != "/tasks/exit" {
		return
	}
	decoded, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		r.cfg.Logger.Warn("an event of containerd cannot be read", "topic", e.Topic, "error", err)
		return
	}
	exit, ok := decoded.(*eventsapi.TaskExit)
	if !ok || exit.ID != exit.ContainerID { // the latter: a command run in it
		return
	}
	told := runtime.Exit{Code: exit.ExitStatus, Reason: runtime.ExitNormal, Time: exit.ExitedAt.AsTime()}
	rec, known := r.records.get(exit.ContainerID)
	if known && !rec.deleting {
		if st, err := r.Status(ctx, exit.ContainerID); err == nil && st.Exit != nil {
			told = *st.Exit
		} else {
			told.Reason = r.exitReason(rec, exit.ExitStatus)
		}
	}
	r.hub.send(runtime.Event{Kind: runtime.EventExited, ID: exit.ContainerID, Exit: &told})
}

// watchLoggers watches the loggers of what runs, after a start of ours or of containerd's.
func (r *Runtime) watchLoggers(ctx context.Context) {
	list, err := r.List(ctx)
	if err != nil {
		r.cfg.Logger.Warn("loggers are not watched until containerd answers again", "error", err)
		return
	}
	for _, st := range list {
		if rec, ok := r.records.get(st.ID); ok && st.State == runtime.StateRunning && rec.LogDir != "" {
			r.loggers.add(st.ID, rec.LogDir)
		}
	}
}
