package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"drover": main})
}

// TestScripts runs the command line against a scripted scheduler of each script's own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "agent.sock")
			addr := serveFake(env.T().(testing.TB), socket)
			env.Setenv("DROVER_ADDR", addr)
			env.Setenv("DROVER_TOKEN", fakeToken)
			env.Setenv("SOCKET", socket)
			env.Setenv("TZ", "UTC")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE COMMAND…: the command ends with exactly this code, and a failure is one line.
			"exits": exits,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if stderr := ts.ReadFile("stderr"); want != 0 && strings.Contains(stderr, "rpc error") {
		ts.Fatalf("gRPC's words in the error: %s", stderr)
	}
}

// runApp runs one command line in this process.
func runApp(t *testing.T, a *app, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	a.out, a.err, a.in = &out, &errOut, strings.NewReader("")
	if a.getenv == nil {
		a.getenv = func(string) string { return "" }
	}
	a.now = func() time.Time { return started.Add(90 * time.Second) }
	code = a.execute(context.Background(), args)
	return code, out.String(), errOut.String()
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		walk(c, visit)
	}
}

func TestEveryCommandHasExamplesThatStartWithIt(t *testing.T) {
	a := &app{out: &bytes.Buffer{}, err: &bytes.Buffer{}, in: strings.NewReader(""), getenv: os.Getenv}
	walk(a.root(), func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: Short %q, Example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		if !strings.Contains(cmd.Example, "drover") {
			t.Errorf("%s: the example %q doesn't call drover", cmd.CommandPath(), cmd.Example)
		}
	})
}

// TestExamplesParse: the flags that examples use exist.
func TestExamplesParse(t *testing.T) {
	a := &app{out: &bytes.Buffer{}, err: &bytes.Buffer{}, in: strings.NewReader(""), getenv: os.Getenv}
	root := a.root()
	walk(root, func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "drover" || words[1] == "help" {
				continue
			}
			found, rest, err := root.Find(words[1:])
			if err != nil {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			for _, w := range rest {
				if w == "--" {
					break
				}
				name, isFlag := strings.CutPrefix(w, "--")
				if !isFlag {
					continue
				}
				name, _, _ = strings.Cut(name, "=")
				if found.Flags().Lookup(name) == nil {
					t.Errorf("%s: %q: %s has no flag --%s", cmd.CommandPath(), line, found.CommandPath(), name)
				}
			}
		}
	})
}

func TestDeployOnATerminalStopsByItself(t *testing.T) {
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	env := func(name string) string {
		return map[string]string{"DROVER_ADDR": addr, "DROVER_TOKEN": fakeToken, "NO_COLOR": "1"}[name]
	}
	args := []string{"service", "deploy", "iris", "--pool", "p", "--model", "iris@1.0.0", "--flavor", "f"}
	code, out, errOut := runApp(t, &app{terminal: true, getenv: env}, append(args, "--wait")...)
	if code != 0 || !strings.Contains(out, "auto stop: after 1h\n") {
		t.Errorf("code %d, output %q, %q", code, out, errOut)
	}
	if !strings.Contains(out, "\x1b[2A\r") || !strings.Contains(out, "[####............]  30% 3 MiB/10 MiB") {
		t.Errorf("no moving progress: %q", out)
	}
	args[2] = "iris2"
	code, out, _ = runApp(t, &app{terminal: true, getenv: env}, append(args, "--auto-stop", "off")...)
	if code != 0 || !strings.Contains(out, "auto stop: off") {
		t.Errorf("code %d, output %q", code, out)
	}
	args[2] = "iris3"
	code, out, _ = runApp(t, &app{getenv: env}, args...)
	if code != 0 || !strings.Contains(out, "auto stop: off") {
		t.Errorf("not on a terminal: code %d, output %q", code, out)
	}
}

// TestProgressFitsTheTerminal: a line that wraps or scrolls away couldn't be replaced by the next picture.
func TestProgressFitsTheTerminal(t *testing.T) {
	r := &fleetv1.WatchServiceResponse{Service: &fleetv1.Service{
		Spec: &fleetv1.ServiceSpec{Versions: []*fleetv1.ServiceVersion{{Instances: 30}}},
		Status: &fleetv1.ServiceStatus{State: fleetv1.ServiceDeploying, Reason: strings.Repeat("words ", 30),
			Versions: []*fleetv1.ServiceVersionStatus{{WaitingReason: strings.Repeat("CPU ", 30)}}},
	}}
	for i := range 30 {
		r.Instances = append(r.Instances, &fleetv1.Instance{
			Meta: &fleetv1.Meta{Name: fmt.Sprintf("iris-%08d", i)}, Spec: &fleetv1.InstanceSpec{Node: "dev-1"},
			Observed: &fleetv1.InstanceObserved{Reason: strings.Repeat("é", 100)},
		})
	}
	const columns, rows = 50, 12
	a := &app{terminal: true, getenv: func(string) string { return "1" }}
	lines := a.newProgress("service/iris").picture(r, columns, rows)
	if len(lines) >= rows {
		t.Errorf("%d lines on a terminal of %d", len(lines), rows)
	}
	for _, l := range lines {
		if n := len([]rune(l)); n >= columns {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	if last := lines[len(lines)-1]; last != "  and 22 more" {
		t.Errorf("last line %q", last)
	}
}

func TestCompletion(t *testing.T) {
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	env := func(name string) string {
		return map[string]string{"DROVER_ADDR": addr, "DROVER_TOKEN": fakeToken}[name]
	}
	for line, want := range map[string]string{
		"node show ":                      "dev-1 dev-2",
		"node show dev-1 ":                "",
		"instance list --node ":           "dev-1 dev-2",
		"service deploy iris --network ":  "bridge host",
		"device list --node ":             "dev-1 dev-2",
		"device cordon ":                  "fake-0 fake-1",
		"device uncordon ":                "",
		"service deploy iris extra --new": "",
		"agent logs ":                     "",
	} {
		_, out, errOut := runApp(t, &app{getenv: env}, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		words := strings.Fields(out)
		if len(words) == 0 || words[len(words)-1] != ":4" {
			t.Errorf("%q: %q, %q; want it to end in :4, no file names", line, out, errOut)
		} else if got := strings.Join(words[:len(words)-1], " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestColourOnlyOnTerminals(t *testing.T) {
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	for _, tc := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		env := func(name string) string {
			return map[string]string{"DROVER_ADDR": addr, "DROVER_TOKEN": fakeToken, "NO_COLOR": tc.noColor}[name]
		}
		_, out, _ := runApp(t, &app{terminal: tc.terminal, getenv: env}, "node", "list")
		if got := strings.Contains(out, "\x1b[32mReady"); got != tc.want {
			t.Errorf("terminal %t, NO_COLOR %q: colour %t", tc.terminal, tc.noColor, got)
		}
	}
}

func TestWatchEndsWhenInterrupted(t *testing.T) {
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &cancelOn{text: "InstanceExited", cancel: cancel}
	a := &app{out: out, err: &bytes.Buffer{}, now: time.Now, getenv: func(name string) string {
		return map[string]string{"DROVER_ADDR": addr, "DROVER_TOKEN": fakeToken}[name]
	}}
	if code := a.execute(ctx, []string{"event", "list", "--watch"}); code != 0 {
		t.Errorf("code %d", code)
	}
	if !strings.Contains(out.String(), "instance/iris-11111110  code 137; OOMKilled\n") {
		t.Errorf("output %q", out.String())
	}
}

// cancelOn cancels once text was written.
type cancelOn struct {
	bytes.Buffer
	text   string
	cancel context.CancelFunc
}

func (c *cancelOn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.text)) {
		c.cancel()
	}
	return c.Buffer.Write(p)
}

func TestExampleManifestsParse(t *testing.T) {
	docs, err := manifest.Load([]string{"../../examples/iris"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range docs {
		names = append(names, d.Name())
	}
	if got := strings.Join(names, " "); got != "flavor/iris.cpu pool/demo model/iris@1.0.0 service/iris" {
		t.Errorf("objects = %s", got)
	}
}

func TestPlacementManifestsParse(t *testing.T) {
	docs, err := manifest.Load([]string{"../../examples/placement"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range docs {
		names = append(names, d.Name())
	}
	if got := strings.Join(names, " "); got != "flavor/gpu.h100.1 flavor/gpu.h100.8 pool/gpus quota/default model/lm@1.0.0 service/batch service/chat service/large" {
		t.Errorf("objects = %s", got)
	}
}

func TestInstanceShowsItsPlacement(t *testing.T) {
	var p pairs
	addPlacement(&p, &fleetv1.Instance{
		Spec: &fleetv1.InstanceSpec{Priority: 7, Preemptible: true,
			Gang: &fleetv1.Gang{Id: "0a1b2c3d-0000", Rank: 1, Size: 2, Addresses: []string{"10.0.0.1", "10.0.0.2"}}},
		Desired: &fleetv1.InstanceDesired{Leave: &fleetv1.Leave{Cause: fleetv1.LeaveDefrag, Target: "n2"}},
	})
	var out bytes.Buffer
	a := &app{out: &out, getenv: func(string) string { return "" }}
	if err := a.drawPairs(p); err != nil {
		t.Fatal(err)
	}
	want := "Gang:      0a1b2c3d, rank 1 of 2 on 10.0.0.1, 10.0.0.2\nPriority:  7, preemptible\nLeaves:    once it is replaced (defrag) on n2\n"
	if out.String() != want {
		t.Errorf("got %q\nwant %q", out.String(), want)
	}
	p = pairs{}
	if addPlacement(&p, &fleetv1.Instance{}); len(p.names) > 0 {
		t.Errorf("an instance without any of it shows %q", p.names)
	}
}
