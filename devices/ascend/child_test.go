package ascend

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/vendorlib"
)

// child starts this test's program as one that asks the library.
func child(t *testing.T, lib *vendorlib.DCMI) (command *exec.Cmd, said *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command = exec.CommandContext(t.Context(), self)
	command.Env = append(os.Environ(), "ASCEND_TEST_LIBRARY="+lib.Path)
	said = &bytes.Buffer{}
	command.Stdout = said
	return command, said
}

func TestDriverThatTakesTheProcessDown(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	for name, c := range map[string]struct {
		told string
		code int // 0 is any failure
		said string
	}{
		"crash at start":          {"crash init 1", 0, ""},
		"crash while discovering": {"crash get_topo_info 5", 0, ""},
		"crash while sampling":    {"crash get_device_power_info 6", 0, "discovered 8 <nil>\n"},
		"exit while sampling":     {"exit get_device_temperature 2", 127, "discovered 8 <nil>\n"},
	} {
		t.Run(name, func(t *testing.T) {
			lib.Tell(t, c.told)
			command, said := child(t, lib)
			err := command.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || c.code != 0 && exit.ExitCode() != c.code || said.String() != c.said {
				t.Errorf("the process ended with %v and said %q", err, said)
			}
		})
	}
	lib.Tell(t)
	command, said := child(t, lib)
	if err := command.Run(); err != nil || !containsAll(said.String(), "discovered 8 <nil>", "sampled 8 <nil>") {
		t.Errorf("the process of a driver that works ended with %v and said %q", err, said)
	}
}

// A call that hangs holds its process, which can be killed all the same.
func TestDriverThatHangs(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "hang get_device_power_info 3")
	command, said := child(t, lib)
	complaints, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(patience, func() { _ = command.Process.Kill() })
	defer watchdog.Stop()
	line, err := bufio.NewReader(complaints).ReadString('\n')
	if line != "hang\n" || err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the process said %q, %v", line, err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Errorf("the process hadn't hung: %v", err)
	}
	if err := command.Wait(); err == nil || said.String() != "discovered 8 <nil>\n" {
		t.Errorf("the process ended with %v and said %q", err, said)
	}
}
