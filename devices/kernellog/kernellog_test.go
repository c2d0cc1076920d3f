package kernellog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/drover-fleet/drover/devices"
)

func TestParse(t *testing.T) {
	xid := func(pci string, code int64, text string) *Message {
		return &Message{PCIAddress: pci, Kind: devices.SignalXID, Code: code, Text: text}
	}
	for line, want := range map[string]*Message{
		"NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.": xid("0000:3b:00.0", 79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
		"NVRM: Xid (0000:03:00): 14, Channel 00000001":                                                 xid("0000:03:00.0", 14, "Channel 00000001"),
		"NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row":                              xid("0000:10:1c.0", 63, "pid=1896, Row Remapper: New row"),
		"NVRM: Xid (PCI:0000:3B:00.0): 31, pid=7, name=python, Ch 8":                                   xid("0000:3b:00.0", 31, "pid=7, name=python, Ch 8"),
		"NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 13, pid=1":                                               xid("0000:3b:00.0", 13, "pid=1"),
		"NVRM: Xid (PCI:00000000:3b:00): 48":                                                           xid("0000:3b:00.0", 48, ""),
		"NVRM: Xid (PCI:10002:3b:00): 48, x\r":                                                         xid("10002:3b:00.0", 48, "x"),
		"NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.":                                          {PCIAddress: "0000:91:00.0", Kind: devices.SignalLost, Text: "GPU has fallen off the bus."},

		"NVRM: GPU at PCI:0000:91:00: GPU-b6c3b2be-c55b":          nil,
		"NVRM: Xid (PCI:0000:3b:00): many":                        nil,
		"NVRM: Xid (PCI:0000:3b:00): 99999999999999999999, x":     nil,
		"NVRM: Xid (PCI:3b:00): 79, x":                            nil,
		"nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Fatal": nil,
		"user space said NVRM: Xid (PCI:0000:3b:00): 79, spoofed": nil,
		"": nil,
	} {
		got, ok := Parse(line)
		if ok != (want != nil) || ok && !reflect.DeepEqual(got, *want) {
			t.Errorf("%q: %+v %v, want %+v", line, got, ok, want)
		}
	}
}

func TestParseRecord(t *testing.T) {
	m, ok := ParseRecord([]byte("4,1234,98765,-;NVRM: Xid (PCI:0000:3b:00): 79, gone\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"))
	if !ok || m.Code != 79 || m.Text != "gone" {
		t.Errorf("%+v %v", m, ok)
	}
	if _, ok := ParseRecord([]byte("NVRM: Xid (PCI:0000:3b:00): 79")); ok {
		t.Error("a record without its head counted")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("4,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"))
	f.Add([]byte("4,1,2,-;NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.\n"))
	f.Add([]byte("4,1,2,-;NVRM: Xid (PCI:00000000:3b:00 GPU-I:05): 13"))
	f.Fuzz(func(t *testing.T, record []byte) {
		m, ok := ParseRecord(record)
		if !ok {
			if m != (Message{}) {
				t.Errorf("%+v is not ok", m)
			}
			return
		}
		if domain, rest, _ := strings.Cut(m.PCIAddress, ":"); len(domain) < 4 || len(rest) != len("3b:00.0") || m.PCIAddress != strings.ToLower(m.PCIAddress) {
			t.Errorf("address %q", m.PCIAddress)
		}
		if m.Code < 0 || len(m.Text) > longestText || !utf8.ValidString(m.Text) {
			t.Errorf("%+v", m)
		}
	})
}

// answers of a kernel log; when they are used up, a read waits until it's closed.
type answers struct {
	list   []any // string or error
	closed chan struct{}
	once   sync.Once
}

func newAnswers(list ...any) *answers { return &answers{list: list, closed: make(chan struct{})} }

func (a *answers) Read(buf []byte) (int, error) {
	if len(a.list) == 0 {
		<-a.closed
		return 0, fs.ErrClosed
	}
	next := a.list[0]
	a.list = a.list[1:]
	if err, failed := next.(error); failed {
		return 0, err
	}
	return copy(buf, next.(string)), nil
}

func (a *answers) Close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}

func TestFollow(t *testing.T) {
	log := newAnswers("6,1,1,-;usb 1-1: new device\n", &fs.PathError{Op: "read", Err: syscall.EPIPE}, syscall.EINVAL, syscall.EINTR,
		"4,9,9,-;NVRM: Xid (PCI:0000:3b:00): 79, gone\n", "4,10,9,-;NVRM: Xid (PCI:0000:3c:00): 48, double\n")
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	var codes []int64
	err := Follow(ctx, Config{Logger: slog.New(slog.NewTextHandler(&out, nil)), Open: func() (io.ReadCloser, error) { return log, nil }}, func(m Message) {
		if codes = append(codes, m.Code); len(codes) == 2 {
			cancel()
		}
	})
	if err != nil || !reflect.DeepEqual(codes, []int64{79, 48}) {
		t.Errorf("%v %v", codes, err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1 || !strings.Contains(out.String(), "overwritten") {
		t.Errorf("log: %s", out.String())
	}
	select {
	case <-log.closed:
	default:
		t.Error("the log is still open")
	}
}

func TestFollowWaits(t *testing.T) {
	log := newAnswers()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Follow(ctx, Config{Logger: slog.New(slog.DiscardHandler), Open: func() (io.ReadCloser, error) { return log, nil }}, func(Message) {})
	}()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNoLog(t *testing.T) {
	for name, cfg := range map[string]Config{
		"missing":   {Path: filepath.Join(t.TempDir(), "none")},
		"forbidden": {Open: func() (io.ReadCloser, error) { return nil, &fs.PathError{Op: "open", Path: Device, Err: syscall.EPERM} }},
	} {
		var out bytes.Buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&out, nil))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Follow(ctx, cfg, nil); err != nil || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %v, log: %s", name, err, out.String())
		}
	}
}

func TestBrokenLog(t *testing.T) {
	broken := errors.New("broken")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"open": func() (io.ReadCloser, error) { return nil, broken },
		"read": func() (io.ReadCloser, error) { return newAnswers(broken), nil },
	} {
		if err := Follow(t.Context(), Config{Logger: slog.New(slog.DiscardHandler), Open: open}, nil); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pipe stands for the log where a test, or a container, has no other.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, err := pipe.WriteString("4,1,1,-;NVRM: Xid (PCI:0000:3b:00): 79, gone\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var told []int64
	err = Follow(ctx, Config{Path: path, Logger: slog.New(slog.DiscardHandler)}, func(m Message) {
		told = append(told, m.Code)
		cancel()
	})
	if err != nil || !slices.Equal(told, []int64{79}) {
		t.Errorf("%v, %v", told, err)
	}
}

// TestKernel opens the log of the kernel that the test runs on, if it may, and ends a read that waits.
func TestKernel(t *testing.T) {
	log, err := openEnd(Device)
	if err != nil {
		t.Skip("this machine's kernel log can't be read: ", err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Follow(ctx, Config{Logger: slog.New(slog.DiscardHandler)}, func(Message) {}); err != nil {
		t.Error(err)
	}
}
