package ascend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/drover-fleet/drover/devices"
)

// Config says where things are on this host.
type Config struct {
	LibraryPath string       // of libdcmi.so; empty: where drivers put it
	SysRoot     string       // empty: /sys
	Logger      *slog.Logger // nil: slog.Default
}

// Backend is the NPUs of this host, as their driver tells. Its calls block as long as the driver does and are
// not to be trusted to come back: it is for a process that can be killed.
type Backend struct {
	cfg    Config
	log    *slog.Logger
	loaded chan struct{} // closed once the driver answers
	events chan event    // from the driver's thread to Watch

	mu         sync.Mutex // the library is called by one at a time; guards what follows
	handle     uintptr
	calls      *calls
	ready      bool                    // the driver answers
	looked     bool                    // for devices
	chips      []chip                  // of the last discovery
	seen       map[chip]devices.Device // as it was when it last could be asked
	byLogic    map[int32]string        // ID of a device by its logic ID
	subscribed bool
	told       map[string]bool // what the log has already
}

var _ devices.Backend = (*Backend)(nil)

// New answers a backend that looks for the driver's library when it is asked for devices.
func New(cfg Config) *Backend {
	if cfg.SysRoot == "" {
		cfg.SysRoot = "/sys"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Backend{
		cfg: cfg, log: cfg.Logger, loaded: make(chan struct{}), events: make(chan event, 1024),
		seen: map[chip]devices.Device{}, byLogic: map[int32]string{}, told: map[string]bool{},
	}
}

// Vendor is "ascend".
func (b *Backend) Vendor() string { return "ascend" }

// Close leaves the library where it is: its threads can't be stopped.
func (b *Backend) Close() error { return nil }

// Discover answers every NPU. A device that the driver knows but can't reach is Lost, with what was known of
// it before.
func (b *Backend) Discover(ctx context.Context) ([]devices.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.discover(ctx)
}

func (b *Backend) discover(ctx context.Context) ([]devices.Device, error) {
	b.looked = true
	chips, err := b.find()
	if err != nil || len(chips) == 0 {
		b.chips = nil
		return nil, err
	}
	b.chips = chips
	b.byLogic = map[int32]string{}
	version := b.driverVersion()
	var found []devices.Device
	for i, at := range chips {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := b.describe(at, i)
		d.DriverVersion = version
		b.seen[at] = d
		if d.LogicID != nil {
			b.byLogic[int32(*d.LogicID)] = d.ID //nolint:gosec // came from an int32
		}
		found = append(found, d)
	}
	if err := b.link(ctx, found); err != nil {
		return nil, err
	}
	return found, nil
}

// find answers the NPUs, after loading the library where that is yet to do; none where there is no driver.
func (b *Backend) find() ([]chip, error) {
	if b.handle == 0 {
		handle, err := load(b.cfg.LibraryPath)
		if errors.Is(err, errNoLibrary) {
			b.tell(slog.LevelInfo, "no Ascend driver on this host", err)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		b.handle = handle
	}
	if b.ready {
		chips, err := b.calls.chips()
		if len(chips) > 0 || err != nil {
			return chips, err
		}
		// The driver counted when it was started: start it anew, for a device plugged in since.
	}
	generations := []*calls{firstGeneration(b.handle), secondGeneration(b.handle)}
	err := errNoSymbol
	for _, c := range generations {
		if !c.usable() {
			continue
		}
		var chips []chip
		if chips, err = begin(c); err == nil {
			b.calls = c
			if !b.ready {
				b.ready = true
				close(b.loaded)
			}
			return chips, nil
		}
		if gone(err) {
			b.tell(slog.LevelInfo, "the Ascend driver has no device", err)
			return nil, nil
		}
		if !unavailable(err) {
			break // else the driver of a chip that is asked through the other names
		}
	}
	return nil, fmt.Errorf("start the Ascend driver: %w", err)
}

// begin starts the driver and answers its NPUs.
func begin(c *calls) ([]chip, error) {
	if code := c.start(); code != codeOK {
		return nil, codeError(code)
	}
	return c.chips()
}

// tell logs an err, unless it has been logged.
func (b *Backend) tell(level slog.Level, what string, err error) {
	key := what + err.Error()
	if b.told[key] {
		return
	}
	b.told[key] = true
	b.log.Log(context.Background(), level, what, "error", err)
}

// missing notes that a figure is absent: the driver's failures are worth a line, what it never had isn't, and a
// device that is gone is told as that.
func (b *Backend) missing(figure string, err error) {
	if gone(err) {
		return
	}
	level := slog.LevelWarn
	if unavailable(err) {
		level = slog.LevelDebug
	}
	b.tell(level, "Ascend: no "+figure, err)
}
