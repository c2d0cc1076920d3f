package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The daemon's path in a unit exists on the machines it's installed on, not on the one that builds it.
var execStart = regexp.MustCompile(`(?m)^ExecStart=/usr/bin/drover `)

// verify runs systemd-analyze verify over copies of the units, which edit may change.
func verify(t *testing.T, edit func(unit string) string) (output string, ok bool) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: systemd-analyze is missing (Debian package systemd): the units aren't verified")
	}
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("found the units %v (%v), want two", units, err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, unit := range units {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		if !execStart.Match(content) {
			t.Fatalf("%s doesn't start /usr/bin/drover", unit)
		}
		dst := filepath.Join(dir, unit)
		changed := edit(execStart.ReplaceAllString(string(content), "ExecStart=/bin/true "))
		if err := os.WriteFile(dst, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, dst)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	// An unknown setting is a warning, with exit status 0.
	return string(out), err == nil && len(out) == 0
}

func TestUnitsAreValid(t *testing.T) {
	if out, ok := verify(t, func(unit string) string { return unit }); !ok {
		t.Errorf("systemd-analyze verify: %s", out)
	}
}

func TestVerifyFindsMistakes(t *testing.T) {
	for _, mistake := range []string{"KillMode=never", "NoSuchSetting=yes", "Type=sometimes"} {
		out, ok := verify(t, func(unit string) string {
			return strings.Replace(unit, "[Service]\n", "[Service]\n"+mistake+"\n", 1)
		})
		if ok {
			t.Errorf("%s went unnoticed (output %q)", mistake, out)
		}
	}
}

// What the failure rules rest on; a unit without it is valid, and wrong.
func TestUnitsKeepThePromises(t *testing.T) {
	for unit, promises := range map[string][]string{
		"drover-agent.service": {
			"Type=notify", "NotifyAccess=main", "Restart=always", "WatchdogSec=30s",
			"KillMode=process", "Delegate=yes", "TasksMax=infinity", "StateDirectory=drover/agent",
			"RuntimeDirectoryPreserve=yes", "After=network-online.target containerd.service",
		},
		"drover-scheduler.service": {
			"Type=notify", "NotifyAccess=main", "Restart=always", "WatchdogSec=30s",
			"User=drover", "CapabilityBoundingSet=", "ProtectSystem=strict", "StateDirectory=drover/scheduler",
		},
	} {
		content, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		lines := "\n" + string(content)
		for _, promise := range promises {
			if !strings.Contains(lines, "\n"+promise+"\n") {
				t.Errorf("%s: no line %q", unit, promise)
			}
		}
		for _, forbidden := range []string{"Requires=", "BindsTo=", "PartOf="} {
			if strings.Contains(lines, "\n"+forbidden) {
				t.Errorf("%s: %s would stop it together with another unit", unit, forbidden)
			}
		}
	}
}
