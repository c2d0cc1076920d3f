package ascend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ebitengine/purego"

	"github.com/drover-fleet/drover/devices"
)

// Watch tells of faults as the driver raises and takes them back. It waits for a driver to appear, and it just
// waits where the driver can't tell. The driver takes one subscription of a process: a second Backend of the
// process has none.
func (b *Backend) Watch(ctx context.Context, f func(devices.Signal)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-b.loaded:
	}
	if err := b.subscribe(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-b.events:
			if s, ok := b.signal(ctx, e); ok {
				f(s)
			}
		}
	}
}

func (b *Backend) subscribe() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subscribed {
		return nil
	}
	err := errNoSymbol
	if b.calls.subscribeFault != nil {
		err = nil
		if code := b.calls.subscribeFault(eventFilter{}, purego.NewCallback(b.heard)); code != codeOK {
			err = codeError(code)
		}
	}
	if unavailable(err) || errors.Is(err, codeError(codeNotPermitted)) {
		b.tell(slog.LevelInfo, "Ascend: the driver doesn't tell of faults by itself; they show when it is asked", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("subscribe to the Ascend driver's faults: %w", err)
	}
	b.subscribed = true
	return nil
}

// heard is called by the driver, on its own thread, with an event that is valid for as long as the call.
func (b *Backend) heard(e *event) {
	if e == nil || e.Type != eventFault {
		return
	}
	select {
	case b.events <- *e:
	default: // a storm: what stands shows when the driver is asked
		b.log.Warn("an Ascend fault was dropped, too many are waiting", "device", e.Fault.Device, "code", e.Fault.ID)
	}
}

// signal names the device that the event is about, looking at the host's devices once more when it is unknown.
func (b *Backend) signal(ctx context.Context, e event) (devices.Signal, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	logic := int32(e.Fault.Device)
	if b.byLogic[logic] == "" {
		if _, err := b.discover(ctx); err != nil {
			b.log.Warn("an Ascend fault came from an unknown device, and there is no looking", "error", err)
		}
	}
	id := b.byLogic[logic]
	if id == "" {
		b.log.Warn("an Ascend fault came from an unknown device", "device", logic, "code", e.Fault.ID)
		return devices.Signal{}, false
	}
	// The driver's time is, of a recovery, that of the fault.
	s := devices.Signal{DeviceID: id, Kind: devices.SignalFault, Code: int64(e.Fault.ID), Time: time.Now()}
	if e.Fault.Assertion == eventRecovery {
		s.Kind = devices.SignalRecovered
	}
	s.Text = strings.TrimSpace(text(e.Fault.Name[:]) + " " + text(e.Fault.Additional[:]))
	return s, true
}
