package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v3/disk"
	"golang.org/x/time/rate"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

const (
	repairEvery  = 10 * time.Second
	slowEvery    = time.Minute
	collectEvery = 5 * time.Minute
	keepLogs     = 24 * time.Hour
	keepAttempts = 5
	// deviceSettle is how long the start waits for drivers, less than a lease.
	deviceSettle = 2 * time.Second
	// Events of device signals: at most so many at once, and one every so often.
	signalBurst = 20
	signalEvery = 10 * time.Second
	// diskLimit is the fraction of a disk's use above which no image is pulled.
	diskLimit = 0.95
	// maxImages is how many images the scheduler is told of.
	maxImages = 64
)

func tellOnce(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// findRuntime notes the runtime's name and version in the facts.
func (a *Agent) findRuntime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := a.deps.Runtime.Info(ctx)
	if err != nil {
		a.deps.Logger.Warn("the container runtime does not answer", "error", err)
		return
	}
	name := info.Name + " " + info.Version
	a.mu.Lock()
	changed := a.facts.Runtime != name
	a.facts.Runtime, a.imageDir = name, info.ImageDir
	a.mu.Unlock()
	if changed {
		tellOnce(a.factsChanged)
	}
}

// networkLoop repairs the containers' network.
func (a *Agent) networkLoop(ctx context.Context) error {
	ticker := time.NewTicker(repairEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		callCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
		n, err := a.deps.Runtime.RepairNetwork(callCtx)
		cancel()
		if err != nil && !failing && ctx.Err() == nil && !errors.Is(err, runtime.ErrUnavailable) {
			a.deps.Logger.Error("the containers' network can't be repaired", "error", err)
		}
		failing = err != nil
		if n > 0 {
			a.session.NodeEvent(fleetv1.EventWarning, "NetworkRepaired", fmt.Sprintf("%d network rules were missing and have been put back", n))
		}
	}
}

// deviceLoop announces changed devices and what they signal. It waits for no runtime and no disk: the endpoints of
// a failed device's instances hang on it.
func (a *Agent) deviceLoop(ctx context.Context, notes *deviceNotes) error {
	signals := rate.NewLimiter(rate.Every(signalEvery), signalBurst)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.deps.Devices.Changed():
			tellOnce(a.factsChanged) // first: what is reported of instances may rest on it
			a.noteDevices(notes)
			tellOnce(a.quarantineChanged)
		case s := <-a.deps.Devices.Signals():
			a.noteSignal(s, signals)
		}
	}
}

// quarantineLoop journals devices whose quarantine has ended, the last ones when ctx ends.
func (a *Agent) quarantineLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			a.keepQuarantined()
			return nil
		case <-a.quarantineChanged:
			a.keepQuarantined()
		}
	}
}

// nodeLoop does what is due once a minute.
func (a *Agent) nodeLoop(ctx context.Context) error {
	ticker := time.NewTicker(slowEvery)
	defer ticker.Stop()
	var collected time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		a.findRuntime(ctx)
		a.metrics.Sample(ctx)
		a.removeOldLogs()
		if a.checkDisk(ctx) || time.Since(collected) >= collectEvery {
			collected = time.Now()
			a.collectImages(ctx)
		}
		a.noteImages(ctx)
	}
}

func (a *Agent) pullAllowed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pullsStop
}

// checkDisk stops pulls while a disk that they fill is nearly full, and tells whether one is.
func (a *Agent) checkDisk(ctx context.Context) bool {
	a.mu.Lock()
	dirs := []string{a.cfg.DataDir}
	if a.imageDir != "" {
		dirs = append(dirs, a.imageDir)
	}
	a.mu.Unlock()
	stop, err := fullDisk(dirs, func(dir string) (float64, error) {
		usage, err := disk.UsageWithContext(ctx, dir)
		if err != nil {
			return 0, err
		}
		return usage.UsedPercent / 100, nil
	})
	if err != nil {
		a.deps.Logger.Error("the disks' use can't be read", "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pullsStop = stop
	return stop != nil
}

// fullDisk answers why no image may be fetched: one of the directories is on a disk that is nearly full.
func fullDisk(dirs []string, use func(dir string) (float64, error)) (stop, err error) {
	for _, dir := range dirs {
		used, useErr := use(dir)
		err = errors.Join(err, useErr)
		if useErr == nil && used > diskLimit {
			stop = fmt.Errorf("the disk that holds %s is %.0f %% full: no image is pulled", dir, 100*used)
		}
	}
	return stop, err
}

func (a *Agent) collectImages(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	removed, err := a.deps.Runtime.CollectImages(ctx, a.cfg.ImageHigh, a.cfg.ImageLow, func(digest string) bool {
		return slices.ContainsFunc(a.instances.Instances(), func(in *fleetv1.Instance) bool { return in.GetSpec().GetImageDigest() == digest })
	})
	for _, img := range removed {
		a.deps.Logger.Info("removed an image that no instance uses", "digest", img.Digest, "bytes", img.Bytes)
	}
	if err != nil && ctx.Err() == nil {
		a.deps.Logger.Warn("images can't be collected", "error", err)
	}
}

// noteImages notes in the facts which images were used last. It's called at the start and then once a minute, and
// that is all that keeps new images from being told more often: nodes that fetch one together don't write together.
func (a *Agent) noteImages(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all, err := a.deps.Runtime.Images(callCtx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, runtime.ErrUnavailable) { // that is told where the runtime is looked for
			a.deps.Logger.Warn("the node's images can't be listed", "error", err)
		}
		return
	}
	var digests []string
	for _, img := range all[:min(len(all), maxImages)] {
		digests = append(digests, img.Digest)
	}
	slices.Sort(digests)
	a.mu.Lock()
	changed := !slices.Equal(a.facts.ImageDigests, digests)
	a.facts.ImageDigests = digests
	a.mu.Unlock()
	if changed {
		tellOnce(a.factsChanged)
	}
}

// removeOldLogs applies the retention that the package's doc states.
func (a *Agent) removeOldLogs() {
	attempts := map[string]uint32{}
	for _, in := range a.instances.Instances() {
		attempts[in.GetMeta().GetId()] = in.GetObserved().GetAttempt()
	}
	if err := removeLogs(a.logRoot(), attempts, time.Now()); err != nil {
		a.deps.Logger.Warn("old logs can't be removed", "error", err)
	}
}

func removeLogs(root string, attempts map[string]uint32, now time.Time) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		attempt, living := attempts[e.Name()]
		if !living {
			info, statErr := e.Info()
			if statErr == nil && now.Sub(info.ModTime()) > keepLogs {
				statErr = os.RemoveAll(dir)
			}
			err = errors.Join(err, statErr)
			continue
		}
		of, readErr := os.ReadDir(dir)
		err = errors.Join(err, readErr)
		for _, e := range of {
			if n, parseErr := strconv.ParseUint(e.Name(), 10, 32); parseErr == nil && uint32(n)+keepAttempts <= attempt {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		}
	}
	return err
}
