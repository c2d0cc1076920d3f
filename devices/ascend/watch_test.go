package ascend

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/test/vendorlib"
)

const patience = 20 * time.Second

// watching answers what the backend signals, and how its watch ends after stop.
func watching(t *testing.T, b *Backend) (<-chan devices.Signal, <-chan error, context.CancelFunc) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	signals, ended := make(chan devices.Signal, 16), make(chan error, 1)
	go func() { ended <- b.Watch(ctx, func(s devices.Signal) { signals <- s }) }()
	return signals, ended, stop
}

func await[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestWatch(t *testing.T) {
	for name, flags := range map[string][]string{"dcmi": {"-DNO_V2"}, "dcmiv2": {"-DNO_V1"}} {
		t.Run(name, func(t *testing.T) {
			lib := vendorlib.NewDCMI(t, flags...)
			away := lib.Path + ".away"
			if err := os.Rename(lib.Path, away); err != nil {
				t.Fatal(err)
			}
			warnings := make(lines, 16)
			b := New(Config{LibraryPath: lib.Path, SysRoot: sysRoot(t), Logger: slog.New(slog.NewTextHandler(warnings, nil))})
			signals, ended, stop := watching(t, b)
			discovered(t, b)
			if line := await(t, warnings); !strings.Contains(line, "no Ascend driver") {
				t.Errorf("logged: %s", line)
			}
			if err := os.Rename(away, lib.Path); err != nil {
				t.Fatal(err)
			}
			discovered(t, b) // the driver came

			lib.Tell(t, "event 6 80E01801 1")
			s := await(t, signals)
			if s.DeviceID != die(6) || s.Kind != devices.SignalFault || s.Code != 0x80E01801 || s.Text != "multi-bit ECC error stack 1" ||
				time.Since(s.Time) > patience {
				t.Errorf("signal %+v", s)
			}
			lib.Tell(t, "event 6 80E01801 0")
			if s := await(t, signals); s.DeviceID != die(6) || s.Kind != devices.SignalRecovered || s.Code != 0x80E01801 {
				t.Errorf("signal %+v", s)
			}
			// Of a device that doesn't exist nothing can be said; the one after it comes.
			lib.Tell(t, "event 40 80E01801 1")
			if line := await(t, warnings); !containsAll(line, "unknown device", "device=40") {
				t.Errorf("logged: %s", line)
			}
			lib.Tell(t, "event 7 80E01802 2")
			if s := await(t, signals); s.DeviceID != die(7) || s.Kind != devices.SignalFault || s.Code != 0x80E01802 {
				t.Errorf("signal %+v", s)
			}
			stop()
			if err := await(t, ended); err != nil {
				t.Errorf("the watch ended: %v", err)
			}
			signals, ended, stop = watching(t, b) // again, on the same subscription
			lib.Tell(t, "event 5 80E01803 1")
			if s := await(t, signals); s.DeviceID != die(5) {
				t.Errorf("signal %+v", s)
			}
			stop()
			await(t, ended)
		})
	}
}

// lines is a log.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// A driver that can't tell by itself leaves the watch waiting; one that fails ends it.
func TestWatchRefused(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	for name, c := range map[string]struct {
		lib  *vendorlib.DCMI
		told string
		fail bool
	}{
		"no such call":  {lib.Without(t, "dcmi_subscribe_fault_event"), "", false},
		"unsupported":   {lib.Without(t), "fail subscribe_fault_event -8255", false},
		"not permitted": {lib.Without(t), "fail subscribe_fault_event -8002", false},
		"failing":       {lib.Without(t), "fail subscribe_fault_event -8005", true},
	} {
		t.Run(name, func(t *testing.T) {
			c.lib.Tell(t, c.told)
			b := opened(t, c.lib)
			discovered(t, b)
			if err := b.subscribe(); (err != nil) != c.fail {
				t.Fatalf("subscribing: %v", err)
			}
			_, ended, stop := watching(t, b)
			if !c.fail {
				stop()
			}
			if err := await(t, ended); (err != nil) != c.fail {
				t.Errorf("the watch ended: %v", err)
			}
		})
	}
}
