//go:build cgo && linux

package nvidia

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
)

const (
	// waitMillis bounds a wait for events, and so how long Watch takes to notice that it is to end.
	waitMillis = 500
	// waitAgain is the pause after an event set failed.
	waitAgain = 5 * time.Second

	wantedEvents = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError |
		nvml.EventTypeFatalPoisonError | nvml.EventTypeGpuUnavailableError

	noInstance = 0xFFFFFFFF // in an event that isn't about a slice
)

// session is what Watch listens to until the devices change.
type session struct {
	lib    *library
	logger *slog.Logger
	gpus   []listener

	lost map[string]bool // told as lost; only Watch looks here

	newest *atomic.Pointer[session] // of the backend
	stop   chan struct{}
	once   sync.Once
}

// listener is a GPU with its slices, as Watch sees it.
type listener struct {
	id     string
	handle nvml.Device
	slices []*gpu // their IDs and instances don't change
}

func (s *session) end() {
	if s != nil {
		s.once.Do(func() { close(s.stop) })
	}
}

func (s *session) ended(ctx context.Context) bool {
	select {
	case <-s.stop:
		return true
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// publishLocked hands the devices to Watch, if they aren't those that it listens to.
func (b *Backend) publishLocked() {
	next := &session{lib: b.lib, logger: b.cfg.Logger, lost: map[string]bool{}, newest: &b.session, stop: make(chan struct{})}
	for _, g := range b.gpus {
		switch {
		case g.handle == nil || g.Health == lostHealth:
		case g.ParentID == "":
			next.gpus = append(next.gpus, listener{id: g.ID, handle: g.handle})
		default:
			for i := range next.gpus {
				if next.gpus[i].id == g.ParentID {
					next.gpus[i].slices = append(next.gpus[i].slices, g)
				}
			}
		}
	}
	now := b.session.Load()
	if now != nil && now.lib == next.lib && slices.EqualFunc(now.gpus, next.gpus, sameListener) {
		return
	}
	b.session.Store(next)
	now.end()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

func sameListener(l, other listener) bool {
	return l.id == other.id && l.handle == other.handle && slices.EqualFunc(l.slices, other.slices, func(x, y *gpu) bool {
		return x.ID == y.ID && x.gpuInstance == y.gpuInstance && x.computeInstance == y.computeInstance
	})
}

// Watch implements devices.Backend. It tells of what Discover has listed, and may be called once at a time.
func (b *Backend) Watch(ctx context.Context, f func(devices.Signal)) error {
	for ctx.Err() == nil {
		var failed <-chan time.Time
		if s := b.enter(); s != nil {
			if err := s.listen(ctx, f); err != nil {
				b.cfg.Logger.Warn("cannot listen to NVML's events", "error", err, "again_in", waitAgain)
				failed = time.After(waitAgain)
			}
			b.inUse.RUnlock()
			if failed == nil && s.ended(ctx) {
				continue
			}
		}
		select {
		case <-b.news:
		case <-failed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// enter answers the session to listen to and holds its library, nil if there is none that's not ended.
func (b *Backend) enter() *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.session.Load()
	if s == nil {
		return nil
	}
	b.inUse.RLock()
	return s
}

// listen tells of events until the session or ctx ends. It returns early, without an error, when no GPU
// tells of any.
func (s *session) listen(ctx context.Context, f func(devices.Signal)) error {
	for _, c := range []call{callEventCreate, callEventRegister, callEventWait, callEventFree} {
		if !s.lib.has(c) {
			s.logger.Info("the driver tells of no events", "lacks", string(c))
			return nil
		}
	}
	for !s.ended(ctx) {
		again, err := s.listenSet(ctx, f)
		if err != nil || !again {
			return err
		}
	}
	return nil
}

// listenSet listens to one event set. again: a GPU was lost, and the others need a new set.
func (s *session) listenSet(ctx context.Context, f func(devices.Signal)) (again bool, err error) {
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return false, fmt.Errorf("create an event set: %w", answer(ret))
	}
	defer func() {
		if ret := set.Free(); ret != nvml.SUCCESS && err == nil {
			err = fmt.Errorf("free the event set: %w", answer(ret))
		}
	}()
	if s.register(set, f) == 0 {
		return false, nil
	}
	for !s.ended(ctx) {
		event, ret := set.Wait(waitMillis)
		switch ret {
		case nvml.SUCCESS:
			for _, signal := range s.signals(event) {
				f(signal)
			}
		case nvml.ERROR_TIMEOUT:
		case nvml.ERROR_GPU_IS_LOST:
			if !s.findLost(f) {
				return false, fmt.Errorf("wait for events: %w", answer(ret))
			}
			return true, nil
		default:
			return false, fmt.Errorf("wait for events: %w", answer(ret))
		}
	}
	return false, nil
}

// register adds the GPUs that aren't lost to the set and answers how many tell of events.
func (s *session) register(set nvml.EventSet, f func(devices.Signal)) int {
	n := 0
	for _, g := range s.gpus {
		if s.lost[g.id] {
			continue
		}
		types := uint64(nvml.EventTypeXidCriticalError)
		if v := ask(&asker{lib: s.lib}, callEventTypes, g.handle.GetSupportedEventTypes); v != nil {
			types = *v & wantedEvents
		}
		if types == 0 {
			continue
		}
		switch ret := g.handle.RegisterEvents(types, set); ret {
		case nvml.SUCCESS:
			n++
		case nvml.ERROR_GPU_IS_LOST:
			s.tellLost(g.id, f)
		default:
			s.logger.Warn("a GPU's events are not told", "gpu", g.id, "reason", answer(ret))
		}
	}
	return n
}

func (s *session) tellLost(id string, f func(devices.Signal)) {
	s.lost[id] = true
	f(devices.Signal{
		DeviceID: id, Kind: devices.SignalLost, Time: time.Now(), Text: answer(nvml.ERROR_GPU_IS_LOST).Error(),
	})
}

// findLost tells the GPUs that were lost since the last time and answers whether there are any.
func (s *session) findLost(f func(devices.Signal)) bool {
	told := false
	for _, g := range s.gpus {
		if s.lost[g.id] {
			continue
		}
		a := &asker{lib: s.lib}
		readMemory(a, g.handle)
		ask(a, callTemperature, func() (uint32, nvml.Return) { return g.handle.GetTemperature(nvml.TEMPERATURE_GPU) })
		if a.bad == nvml.ERROR_GPU_IS_LOST {
			s.tellLost(g.id, f)
			told = true
		}
	}
	return told
}

// signals translates an event. One about slices is told of each of them, one about a GPU of the GPU, and one
// about a GPU that isn't known of all.
func (s *session) signals(e nvml.EventData) []devices.Signal {
	signal := devices.Signal{Time: time.Now()}
	switch e.EventType {
	case nvml.EventTypeXidCriticalError:
		signal.Kind, signal.Code = devices.SignalXID, int64(e.EventData)
		signal.Text = fmt.Sprintf("Xid %d", e.EventData)
	case nvml.EventTypeDoubleBitEccError:
		signal.Kind, signal.Text = devices.SignalECC, "uncorrectable memory error"
	case nvml.EventTypeFatalPoisonError:
		signal.Kind, signal.Text = devices.SignalECC, "fatal poison error"
	case nvml.EventTypeGpuUnavailableError:
		signal.Kind, signal.Text = devices.SignalLost, "the GPU is unavailable"
	default:
		return nil
	}
	gpus := s.gpus
	if newest := s.newest.Load(); newest != nil && newest.lib == s.lib { // it knows the slices of now
		gpus = newest.gpus
	}
	i := slices.IndexFunc(gpus, func(l listener) bool { return l.handle == e.Device })
	if i < 0 {
		return []devices.Signal{signal}
	}
	var out []devices.Signal
	if e.GpuInstanceId != noInstance {
		for _, slice := range gpus[i].slices {
			if slice.gpuInstance == int(e.GpuInstanceId) &&
				(e.ComputeInstanceId == noInstance || slice.computeInstance == int(e.ComputeInstanceId)) {
				signal.DeviceID = slice.ID
				out = append(out, signal)
			}
		}
	}
	if out == nil {
		signal.DeviceID = gpus[i].id
		out = []devices.Signal{signal}
	}
	return out
}
