package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/machine"
)

// buildOlder builds this program as it was when it knew no newer commands than of a version: what differs is that number alone.
func buildOlder(t *testing.T, version uint32) string {
	t.Helper()
	source, err := filepath.Abs("../../scheduler/state/apply.go")
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	constant := regexp.MustCompile(`(?m)^const CommandVersion = \d+$`)
	if n := len(constant.FindAll(now, -1)); n != 1 {
		t.Fatalf("%s sets the command version %d times", source, n)
	}
	dir := t.TempDir()
	before, overlay, program := filepath.Join(dir, "apply.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "drover")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{source: before}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		before:  constant.ReplaceAll(now, fmt.Appendf(nil, "const CommandVersion = %d", version)),
		overlay: replace,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, "github.com/drover-fleet/drover/cmd/drover").CombinedOutput(); err != nil {
		t.Fatalf("build an older drover: %v\n%s", err, out)
	}
	return program
}

// One scheduler is rolled back to a program that doesn't know all commands in its log: it ends, says why, and applies none of
// them in another way. With the newer program it is back, and like the others.
func TestRolledBackSchedulerStops(t *testing.T) {
	t.Parallel()
	project := &fleetv1.Project{Meta: &fleetv1.Meta{Name: "vision"}}
	known := state.Introduced(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, project)}}}}) - 1
	older := buildOlder(t, known)
	var rolledBack atomic.Bool
	s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{Command: func(n int, argv []string) []string {
		if n == 2 && rolledBack.Load() {
			argv = append([]string{older}, argv[1:]...)
		}
		return argv
	}})
	p := s.All[1]
	if _, err := p.Client.Tenants.CreateProject(t.Context(), &fleetv1.CreateProjectRequest{Project: project}); err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, s.Clients(), 6)
	l.resumes(limit)
	p.Stop()
	rolledBack.Store(true)
	p.Launch()
	if code := p.Wait(limit); code != 1 {
		t.Errorf("the older scheduler ended with code %d, want 1", code)
	}
	if want := fmt.Sprintf("this program knows %d: a newer one has written it", known); !strings.Contains(p.Log(), want) {
		t.Errorf("it doesn't say %q, but\n%s", want, p.Log())
	}
	l.resumes(healed)
	rolledBack.Store(false)
	p.Start()
	s.WaitVoters(3)
	l.finish(p.Client)
	agree(t, s)
}
