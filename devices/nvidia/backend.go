//go:build cgo && linux

package nvidia

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
)

// Vendor is the vendor's name in devices and flavors.
const Vendor = "nvidia"

// Config says where the backend finds the host's parts.
type Config struct {
	LibraryPath string // of NVML; empty: as the system's loader finds it
	SysRoot     string // where sysfs is mounted; empty: /sys
	Logger      *slog.Logger
}

// Backend is the devices.Backend of the GPUs that NVML lists.
type Backend struct {
	cfg Config

	// mu is held for the length of a Discover or Sample.
	mu      sync.Mutex
	lib     *library
	gpus    []*gpu                  // as the last Discover listed them
	said    string                  // why there was no driver, when it was last logged
	told    map[string]bool         // what of single devices the log has already
	tried   string                  // the unlisted GPUs for which NVML was initialised again
	session atomic.Pointer[session] // written with mu held
	closed  bool

	// inUse is held for reading while Watch uses the session's library, and for writing to shut it down. It
	// is taken with mu held.
	inUse sync.RWMutex
	news  chan struct{} // wakes Watch: there is another session
}

// gpu is a GPU or a slice of one.
type gpu struct {
	devices.Device
	handle  nvml.Device // nil: NVML doesn't answer for it
	linksUp int64       // most NVLinks that were seen up
	vague   bool        // its model isn't known for sure: NVML didn't tell name or memory
	unsure  bool        // NVML didn't tell which slices it has: those of before are believed

	gpuInstance, computeInstance int // of a slice
}

var _ devices.Backend = (*Backend)(nil)

// New returns a backend. It loads nothing before it's asked.
func New(cfg Config) *Backend {
	if cfg.LibraryPath == "" {
		cfg.LibraryPath = defaultLibrary
	}
	if cfg.SysRoot == "" {
		cfg.SysRoot = "/sys"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Backend{cfg: cfg, told: map[string]bool{}, news: make(chan struct{}, 1)}
}

// Vendor implements devices.Backend.
func (b *Backend) Vendor() string { return Vendor }

// Discover implements devices.Backend. A driver that appears later is found by a later call.
func (b *Backend) Discover(ctx context.Context) ([]devices.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.discoverLocked(ctx); err != nil {
		return nil, err
	}
	found := make([]devices.Device, len(b.gpus))
	for i, g := range b.gpus {
		found[i] = g.Device
		found[i].Links = slices.Clone(g.Links)
	}
	return found, nil
}

func (b *Backend) discoverLocked(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.openLocked(); errors.Is(err, errNoDriver) {
		return nil
	} else if err != nil {
		return err
	}
	found, refused, err := b.scan(ctx, b.lib)
	if err != nil {
		return err
	}
	unlisted, err := b.unlisted(found)
	if err != nil {
		return err
	}
	if key := strings.Join(unlisted, " "); key != b.tried {
		b.tried = key
		if key != "" {
			b.cfg.Logger.Info("the driver holds GPUs that NVML does not list, initialising it again", "pci", key)
			if err := b.shutLocked(); err != nil {
				b.cfg.Logger.Warn("nvml", "error", err)
			}
			if err := b.openLocked(); err != nil {
				return err
			}
			if found, refused, err = b.scan(ctx, b.lib); err != nil {
				return err
			}
		}
	}
	b.link(b.lib, found)
	b.adoptLocked(found, refused)
	return nil
}

// openLocked loads NVML if it isn't.
func (b *Backend) openLocked() error {
	if b.closed {
		return errors.New("the NVML backend is closed")
	}
	if b.lib != nil {
		return nil
	}
	lib, err := openLibrary(b.cfg.LibraryPath)
	if err != nil {
		if errors.Is(err, errNoDriver) && b.said != err.Error() {
			b.said = err.Error()
			b.cfg.Logger.Info("no NVIDIA GPUs", "reason", err)
		}
		return err
	}
	b.lib, b.said = lib, ""
	return nil
}

// shutLocked ends the session of Watch and gives NVML back.
func (b *Backend) shutLocked() error {
	if b.lib == nil {
		return nil
	}
	b.session.Swap(nil).end()
	b.inUse.Lock()
	defer b.inUse.Unlock()
	err := b.lib.close()
	b.lib = nil
	for _, g := range b.gpus {
		g.handle = nil
	}
	return err
}

// unlisted answers the GPUs that the driver holds and NVML doesn't list.
func (b *Backend) unlisted(found []*gpu) ([]string, error) {
	addresses, err := bound(b.cfg.SysRoot)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(addresses, func(address string) bool {
		return slices.ContainsFunc(found, func(g *gpu) bool { return g.PCIAddress == address }) ||
			slices.ContainsFunc(b.gpus, func(g *gpu) bool { return g.PCIAddress == address })
	}), nil
}

// adoptLocked makes found the devices, and keeps those that were listed before as lost. A slice that is
// missing under a parent that tells its slices was deleted.
func (b *Backend) adoptLocked(found []*gpu, refused nvml.Return) {
	byID := map[string]*gpu{}
	for _, g := range found {
		byID[g.ID] = g
	}
	why := "the driver no longer lists it"
	if refused != nvml.SUCCESS {
		why = answer(refused).Error()
	}
	for _, old := range b.gpus {
		if now := byID[old.ID]; now != nil {
			now.linksUp = max(now.linksUp, old.linksUp)
			now.keep(old)
			if now.Health == lostHealth { // what it said of itself before is more
				old.Health, old.Reason, old.handle, old.Links = now.Health, now.Reason, now.handle, nil
				*now = *old
			}
			continue
		}
		if parent := byID[old.ParentID]; parent != nil && parent.Health != lostHealth {
			if parent.unsure {
				old.Health, old.Reason = parent.Health, parent.Reason
				found = append(found, old)
				byID[old.ID] = old
			}
			continue
		}
		if old.Health != lostHealth {
			old.Health, old.Reason = lostHealth, why
		}
		old.handle, old.Links = nil, nil
		found = append(found, old)
		byID[old.ID] = old
	}
	slices.SortStableFunc(found, func(x, y *gpu) int {
		if d := byParent(byID, x) - byParent(byID, y); d != 0 {
			return d
		}
		return strings.Compare(x.ParentID, y.ParentID)
	})
	b.gpus = found
	b.publishLocked()
}

// keep takes from how a device was described before what NVML fails to tell of it now: none of that changes.
func (g *gpu) keep(before *gpu) {
	if g.vague {
		g.Model, g.Profile, g.MemoryBytes, g.vague = before.Model, before.Profile, cmp.Or(g.MemoryBytes, before.MemoryBytes), before.vague
	}
	if g.PCIAddress == "" {
		g.PCIAddress, g.NUMANode, g.CPUAffinity = before.PCIAddress, before.NUMANode, before.CPUAffinity
	}
	if g.Minor == nil {
		g.Minor = before.Minor
	}
}

// byParent is the number of the GPU that a device is or is cut from.
func byParent(byID map[string]*gpu, g *gpu) int {
	if parent := byID[g.ParentID]; parent != nil {
		return parent.Index
	}
	return g.Index
}

// Close implements devices.Backend. It waits for a Watch to let go of the library.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if err := b.shutLocked(); err != nil {
		return fmt.Errorf("close NVML: %w", err)
	}
	return nil
}
