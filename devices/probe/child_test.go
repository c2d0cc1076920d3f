package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/fake"
)

// TestMain makes this binary the child too: "child MODE ARGUMENT".
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "child" {
		if err := beChild(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command starts this binary as a child.
func command(t testing.TB, mode, argument string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "child", mode, argument}
}

// library misbehaves as drivers' libraries do, in C or in the kernel: it doesn't heed contexts.
type library struct {
	*fake.Backend
	discover, sample func()
	watch            func(f func(devices.Signal)) error
	found            func() ([]devices.Device, error)
}

func (l *library) Discover(ctx context.Context) ([]devices.Device, error) {
	if l.discover != nil {
		l.discover()
	}
	if l.found != nil {
		return l.found()
	}
	return l.Backend.Discover(ctx)
}

func (l *library) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	if l.sample != nil {
		l.sample()
	}
	return l.Backend.Sample(ctx, what)
}

func (l *library) Watch(ctx context.Context, f func(devices.Signal)) error {
	if l.watch != nil {
		return l.watch(f)
	}
	return l.Backend.Watch(ctx, f)
}

func forever() { select {} }

func crash() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV) // as the kernel would
	forever()
}

func beChild(mode, argument string) error {
	text := "8xH100-80GB"
	if mode == "fake" && argument != "" {
		text = argument
	}
	made, err := fake.Parse(text)
	if err != nil {
		return err
	}
	lib := &library{Backend: made}
	switch mode {
	case "fake":
	case "hang":
		lib.discover = forever
	case "hang-stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		lib.discover = forever
	case "hang-sample":
		lib.sample = forever
	case "hang-once": // until the file exists
		lib.discover = func() {
			if _, err := os.Stat(argument); err != nil {
				forever()
			}
		}
	case "crash":
		lib.discover = crash
	case "crash-sample":
		lib.sample = func() { os.Exit(127) }
	case "exit-127":
		lib.discover = func() { os.Exit(127) }
	case "print":
		lib.discover = func() {
			fmt.Println("NVRM: loading")
			fmt.Fprintln(os.Stderr, "warning: old")
			for i := range 10_000 {
				fmt.Println("line", i, strings.Repeat("x", i%6000))
			}
		}
	case "late": // no library until the file exists
		lib.found = func() ([]devices.Device, error) {
			if there, err := filepath.Glob(argument); err != nil || there == nil {
				return nil, err
			}
			return made.Discover(context.Background())
		}
	case "upgraded": // the library that was loaded is the wrong one, unless the file existed by then
		if _, err := os.Stat(argument); err != nil {
			lib.found = func() ([]devices.Device, error) { return nil, errors.New("versions differ") }
		}
	case "watch-ends":
		lib.watch = func(f func(devices.Signal)) error {
			f(devices.Signal{Kind: devices.SignalXID, Code: 13})
			return errors.New("no event sets")
		}
	case "not-a-number":
		lib.sample = func() { made.Now = func() time.Time { return time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) } } // no JSON says that
	case "inherit":
		lib.found = inherited
	default:
		return misbehave(mode, argument)
	}
	conn, err := Conn()
	if err != nil {
		return err
	}
	return Serve(context.Background(), lib, conn)
}

// misbehave speaks no protocol at all.
func misbehave(mode, argument string) error {
	conn, err := Conn()
	if err != nil {
		return err
	}
	write := func(b ...byte) {
		_, err = conn.Write(b)
	}
	switch mode {
	case "deaf":
		f, err := os.OpenFile(argument, os.O_WRONLY, 0) // whose reader sees us end
		if err != nil {
			return err
		}
		defer f.Close()
		forever()
	case "close":
		conn.Close()
		forever()
	case "garbage":
		write([]byte("Failed to initialize NVML: Driver/library version mismatch\n")...)
		forever()
	case "no-json":
		write(append(binary.BigEndian.AppendUint32(nil, 5), "{[}]!"...)...)
		forever()
	case "huge":
		write(binary.BigEndian.AppendUint32(nil, 1<<31)...)
		forever()
	case "drip":
		write(binary.BigEndian.AppendUint32(nil, 1<<20)...)
		for err == nil {
			write(' ')
			time.Sleep(10 * time.Millisecond)
		}
	case "strangers":
		for id := range uint64(100) {
			if err == nil {
				err = writeFrame(conn, reply{ID: 1000 + id, Error: "nobody asked"})
			}
		}
		forever()
	case "parent": // of a deaf child, until killed
		self, err := os.Executable()
		if err != nil {
			return err
		}
		b := New(Config{Vendor: "fake", Command: []string{self, "child", "deaf", argument}, DiscoverWithin: time.Hour})
		_, err = b.Discover(context.Background())
		return err
	default:
		return fmt.Errorf("unknown mode %q", mode)
	}
	return err
}

// inherited answers a device for each file that this process was given.
func inherited() ([]devices.Device, error) {
	var out []devices.Device
	for fd := range 64 {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && !strings.HasPrefix(name, "anon_inode:") { // the Go runtime's own
			out = append(out, devices.Device{ID: fmt.Sprintf("%d %s", fd, name)})
		}
	}
	return out, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
