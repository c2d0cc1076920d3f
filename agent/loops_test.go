package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/agent/journal"
	"github.com/drover-fleet/drover/devices"
	fakedevices "github.com/drover-fleet/drover/devices/fake"
	devicehealth "github.com/drover-fleet/drover/devices/health"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/fake"
)

func TestLogRetention(t *testing.T) {
	root, now := t.TempDir(), time.Now()
	age := func(d time.Duration, path ...string) {
		t.Helper()
		dir := filepath.Join(append([]string{root}, path...)...)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, now.Add(-d), now.Add(-d)); err != nil {
			t.Fatal(err)
		}
	}
	for _, attempt := range []string{"1", "2", "3", "7"} {
		age(1000*time.Hour, "living", attempt)
	}
	age(1000*time.Hour, "living", "notes")
	age(1000*time.Hour, "living")
	age(23*time.Hour, "forgotten")
	age(25*time.Hour, "long forgotten")
	if err := removeLogs(root, map[string]uint32{"living": 7}, now); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	for i := range left {
		left[i] = strings.TrimPrefix(left[i], root+"/")
	}
	if want := []string{"forgotten", "living", "living/3", "living/7", "living/notes"}; !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
	if err := removeLogs(filepath.Join(root, "none"), nil, now); err != nil {
		t.Errorf("without logs: %v", err)
	}
}

func TestFullDiskStopsPulls(t *testing.T) {
	uses := map[string]float64{"data": 0.5, "images": 0.96}
	use := func(dir string) (float64, error) {
		if v, ok := uses[dir]; ok {
			return v, nil
		}
		return 0, errors.New("no such disk")
	}
	stop, err := fullDisk([]string{"data", "images"}, use)
	if err != nil || stop == nil || !strings.Contains(stop.Error(), "images is 96 % full") {
		t.Errorf("stop %v, error %v", stop, err)
	}
	uses["images"] = 0.94
	if stop, err := fullDisk([]string{"data", "images"}, use); err != nil || stop != nil {
		t.Errorf("with room: stop %v, error %v", stop, err)
	}
	if stop, err := fullDisk([]string{"gone", "images"}, use); err == nil || stop != nil {
		t.Errorf("a disk that can't be measured: stop %v, error %v", stop, err)
	}
}

// collecting is a runtime that takes its time to remove images.
type collecting struct {
	runtime.Runtime
	begun chan struct{}
}

func (r collecting) CollectImages(ctx context.Context, _, _ float64, _ func(string) bool) ([]runtime.Image, error) {
	close(r.begun)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A device that fails while images are collected costs its holder the endpoint at once.
func TestDeviceFailsWhileImagesAreCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := fakedevices.Parse("2xH100-80GB")
		if err != nil {
			t.Fatal(err)
		}
		registry := devices.NewRegistry(slog.New(slog.DiscardHandler), b)
		registry.Judge = devicehealth.New()
		cfg := DefaultConfig()
		cfg.NodeName, cfg.DataDir, cfg.HTTPAddr, cfg.Insecure = "n", t.TempDir(), "127.0.0.1:0", true
		j, err := journal.Open(cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		err = j.Save(nil, journal.Record{Instance: &fleetv1.Instance{
			Meta: &fleetv1.Meta{Id: "i"}, Spec: &fleetv1.InstanceSpec{DeviceIds: []string{"fake-host-h100-80gb-1"}},
			Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true},
		}})
		if err := errors.Join(err, j.Close()); err != nil {
			t.Fatal(err)
		}
		rt := fake.New(fake.Options{})
		defer rt.Close()
		slow := collecting{rt, make(chan struct{})}
		a, err := New(cfg, Deps{Runtime: slow, Devices: registry, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, part := range []func(context.Context) error{
			registry.Run, a.nodeLoop, func(ctx context.Context) error { return a.deviceLoop(ctx, newDeviceNotes(nil)) },
		} {
			wg.Go(func() {
				if err := part(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		<-slow.begun
		if !a.instances.Instances()[0].GetObserved().GetReady() {
			t.Error("not ready before anything failed")
		}
		b.SetHealth("fake-host-h100-80gb-1", fleetv1.Lost, "fell off the bus")
		if err := b.Inject(0, "xid 31"); err != nil { // a signal makes the registry look again
			t.Fatal(err)
		}
		synctest.Wait()
		if o := a.instances.Instances()[0].GetObserved(); o.GetReady() {
			t.Errorf("it keeps its endpoint: %v", o)
		}
		cancel()
		wg.Wait()
		if err := a.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestImagesInUseAreKept(t *testing.T) {
	cfg := DefaultConfig()
	cfg.NodeName, cfg.DataDir, cfg.HTTPAddr, cfg.Insecure = "n", t.TempDir(), "127.0.0.1:0", true
	j, err := journal.Open(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	err = j.Save(nil, journal.Record{Instance: &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: "i"}, Spec: &fleetv1.InstanceSpec{ImageDigest: "sha256:used"}, Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceFailed},
	}})
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	rt := fake.New(fake.Options{})
	defer rt.Close()
	for _, digest := range []string{"sha256:used", "sha256:unused"} {
		if _, err := rt.Pull(t.Context(), runtime.PullRequest{Image: "i", Digest: digest}, nil); err != nil {
			t.Fatal(err)
		}
	}
	a, err := New(cfg, Deps{Runtime: rt, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a.collectImages(t.Context())
	absent := errors.New("absent")
	for digest, want := range map[string]error{"sha256:used": nil, "sha256:unused": absent} {
		_, err := rt.Pull(t.Context(), runtime.PullRequest{Image: "i", Digest: digest, Allowed: func() error { return absent }}, nil)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", digest, err, want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Run(ended); err != nil {
		t.Error(err)
	}
}

// What is told of the images are those used last, in an order that does not change by their use.
func TestImagesUsedLastAreTold(t *testing.T) {
	cfg := DefaultConfig()
	cfg.NodeName, cfg.DataDir, cfg.HTTPAddr, cfg.Insecure = "n", t.TempDir(), "127.0.0.1:0", true
	rt := fake.New(fake.Options{})
	defer rt.Close()
	pull := func(i int) {
		t.Helper()
		if _, err := rt.Pull(t.Context(), runtime.PullRequest{Image: "i", Digest: fmt.Sprintf("sha256:%03d", i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	a, err := New(cfg, Deps{Runtime: rt, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, told bool, first, last string) {
		t.Helper()
		a.noteImages(t.Context())
		got := a.Facts().GetImageDigests()
		if len(got) != maxImages || got[0] != first || got[maxImages-1] != last || !slices.IsSorted(got) {
			t.Errorf("%s: %d images: %v", when, len(got), got)
		}
		select {
		case <-a.factsChanged:
			if !told {
				t.Errorf("%s: nothing has changed, but is told", when)
			}
		default:
			if told {
				t.Errorf("%s: it isn't told", when)
			}
		}
	}
	for i := range maxImages + 6 {
		pull(i)
	}
	expect("the oldest are left out", true, "sha256:006", "sha256:069")
	pull(10)
	expect("the same in another order", false, "sha256:006", "sha256:069")
	pull(0)
	expect("one is used again", true, "sha256:000", "sha256:069")
	rt.SetUnavailable(true)
	expect("the runtime is away: unknown is not absent", false, "sha256:000", "sha256:069")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Run(ended); err != nil {
		t.Error(err)
	}
}
