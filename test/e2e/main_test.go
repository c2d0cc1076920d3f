package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/machine"
)

func TestMain(m *testing.M) { os.Exit(machine.Main(m)) }

// limit is how long anything without a deadline of its own may take on a busy machine.
const limit = 60 * time.Second

// run runs one command that must succeed and answers what it printed.
func run(t *testing.T, m *machine.Machine, args ...string) string {
	t.Helper()
	out, errs, code := m.Drover(args...)
	if code != 0 {
		t.Fatalf("drover %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// read runs one command with -o json and reads its answer.
func read[T any](t *testing.T, m *machine.Machine, args ...string) T {
	t.Helper()
	var answer T
	out := run(t, m, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("drover %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return answer
}

// refused runs one command that must fail with the code and one line that holds all the words.
func refused(t *testing.T, m *machine.Machine, code int, args []string, words ...string) {
	t.Helper()
	out, errs, got := m.Drover(args...)
	line, rest, ended := strings.Cut(errs, "\n")
	if got != code || !ended || rest != "" || out != "" || !strings.HasPrefix(line, "drover: ") {
		t.Errorf("exit code %d, printed %q, error %q; want code %d and one line of error alone", got, out, errs, code)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			t.Errorf("error %q lacks %q", line, w)
		}
	}
	for _, noise := range []string{"rpc error", "desc =", "code = "} {
		if strings.Contains(line, noise) {
			t.Errorf("error %q speaks of gRPC", line)
		}
	}
}

// write makes a file of a directory of the test's and answers its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What the tests read of the API's messages in JSON.
type (
	meta struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	service struct {
		Meta   meta `json:"meta"`
		Status struct {
			State    string `json:"state"`
			Versions []struct {
				Ready         int    `json:"ready"`
				WaitingReason string `json:"waiting_reason"`
			} `json:"versions"`
		} `json:"status"`
	}
	instance struct {
		Meta     meta `json:"meta"`
		Observed struct {
			State   string `json:"state"`
			Attempt int    `json:"attempt"`
			Port    int    `json:"port"`
			Ready   bool   `json:"ready"`
		} `json:"observed"`
	}
	services  struct{ Services []service }
	instances struct{ Instances []instance }
	endpoints struct {
		Endpoints []struct {
			Schema     string `json:"schema"`
			IP         string `json:"ip"`
			Port       int    `json:"port"`
			InstanceID string `json:"instance_id"`
		} `json:"endpoints"`
	}
)
