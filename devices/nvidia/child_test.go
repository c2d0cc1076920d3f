//go:build cgo && linux

package nvidia_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/nvidia"
)

// patience bounds what must happen; nothing waits for its end when all is well.
const patience = 30 * time.Second

// A test drives the backend in a child, because the library may take its process along and because a process
// can't be rid of a library. The child is the test binary with childEnv set: it obeys words on its standard
// input and answers with a line of JSON each.
const (
	childEnv   = "DROVER_TEST_NVML_CHILD" // path of the library
	sysEnv     = "DROVER_TEST_SYS"
	controlEnv = "DROVER_FAKE_NVML"
)

type reply struct {
	Devices []devices.Device
	Samples []devices.Sample
	Signal  *devices.Signal
	Error   string
	Done    bool // a Watch ended
}

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		obey(nvidia.New(nvidia.Config{
			LibraryPath: path, SysRoot: os.Getenv(sysEnv), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		}))
		return
	}
	os.Exit(m.Run())
}

func obey(b *nvidia.Backend) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	replies := make(chan reply)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			var r reply
			var err error
			switch lines.Text() {
			case "discover":
				r.Devices, err = b.Discover(ctx)
			case "sample":
				r.Samples, err = b.Sample(ctx, devices.Usage|devices.Condition|devices.Processes)
			case "watch":
				go func() {
					err := b.Watch(ctx, func(s devices.Signal) { replies <- reply{Signal: &s} })
					replies <- reply{Done: true, Error: fmt.Sprint(err)}
				}()
				continue
			case "end":
				cancel()
				continue
			case "close":
				err = b.Close()
			}
			if err != nil {
				r.Error = err.Error()
			}
			replies <- r
		}
		close(replies)
	}()
	out := json.NewEncoder(os.Stdout)
	for r := range replies {
		if out.Encode(r) != nil {
			return
		}
	}
}

type child struct {
	t       *testing.T
	in      io.WriteCloser
	replies chan reply
	exited  chan error
	command *exec.Cmd
	dir     string
}

// start starts a child on the library, with a host whose sysfs is like a DGX H100's. control is what the
// fake is told.
func start(t *testing.T, library, control string) *child {
	t.Helper()
	c := &child{t: t, replies: make(chan reply, 64), exited: make(chan error, 1), dir: t.TempDir()}
	for i, address := range addresses {
		c.bind(address)
		c.write("sys/bus/pci/devices/"+address+"/numa_node", fmt.Sprintln(i/4))
		c.write("sys/bus/pci/devices/"+address+"/local_cpulist", fmt.Sprintf("%d-%d\n", i/4*56, i/4*56+55))
	}
	c.control(control)
	c.command = exec.CommandContext(context.Background(), os.Args[0], "-test.run=^$")
	c.command.Env = append(os.Environ(), childEnv+"="+library, sysEnv+"="+filepath.Join(c.dir, "sys"),
		controlEnv+"="+filepath.Join(c.dir, "control"))
	log, err := os.Create(filepath.Join(c.dir, "log")) // a file has the lines when the child goes on
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.command.Stderr = log
	if c.in, err = c.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := json.NewDecoder(out); ; {
			var r reply
			if lines.Decode(&r) != nil {
				break
			}
			c.replies <- r
		}
		c.exited <- c.command.Wait()
	}()
	t.Cleanup(func() {
		_ = c.command.Process.Kill()
		c.in.Close()
		if t.Failed() {
			t.Logf("the child said:\n%s", c.said())
		}
	})
	return c
}

// said is what the child has logged.
func (c *child) said() string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// bind lets sysfs say that the driver holds a GPU.
func (c *child) bind(address string) { c.write("sys/bus/pci/drivers/nvidia/"+address+"/x", "") }

func (c *child) write(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		c.t.Fatal(err)
	}
}

// control tells the fake how to behave from its next call on.
func (c *child) control(lines string) { c.write("control", lines+"\n") }

func (c *child) send(word string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		c.t.Fatalf("%s: %v", word, err)
	}
}

func (c *child) receive(after string) reply {
	c.t.Helper()
	select {
	case r := <-c.replies:
		return r
	case err := <-c.exited:
		c.t.Fatalf("%s: the child ended: %v\n%s", after, err, c.said())
	case <-time.After(patience):
		c.t.Fatalf("%s: no answer", after)
	}
	return reply{}
}

func (c *child) do(word string) reply {
	c.t.Helper()
	c.send(word)
	return c.receive(word)
}

// devices answers what Discover finds, by index; slices follow their GPU.
func (c *child) devices() []devices.Device {
	c.t.Helper()
	r := c.do("discover")
	if r.Error != "" {
		c.t.Fatalf("discover: %s", r.Error)
	}
	return r.Devices
}

func (c *child) samples() map[string]devices.Sample {
	c.t.Helper()
	r := c.do("sample")
	if r.Error != "" {
		c.t.Fatalf("sample: %s", r.Error)
	}
	byID := map[string]devices.Sample{}
	for _, s := range r.Samples {
		byID[s.DeviceID] = s
	}
	return byID
}

func (c *child) signal() devices.Signal {
	c.t.Helper()
	r := c.receive("watch")
	if r.Signal == nil {
		c.t.Fatalf("no signal but %+v", r)
	}
	return *r.Signal
}

// exit waits for the child to end by itself.
func (c *child) exit() error {
	c.t.Helper()
	select {
	case err := <-c.exited:
		return err
	case r := <-c.replies:
		c.t.Fatalf("the child answered %+v", r)
	case <-time.After(patience):
		c.t.Fatal("the child lives on")
	}
	return nil
}

var addresses = []string{
	"0000:1b:00.0", "0000:43:00.0", "0000:52:00.0", "0000:61:00.0", "0000:9d:00.0", "0000:c3:00.0", "0000:d1:00.0", "0000:df:00.0",
}

func uuid(i int) string { return fmt.Sprintf("GPU-00000000-0000-4000-8000-00000000000%d", i) }

func sliceID(i, s int) string { return fmt.Sprintf("MIG-00000000-0000-4000-8000-0000000000%d%d", i, s) }
