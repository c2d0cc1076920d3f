package vendorlib

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// NVML builds the fake of NVIDIA's library against the header that go-nvml brings, and answers its path. A
// variant is one of its macros: "OLD", "BARE" or "BROKEN", or "" for a current driver.
func NVML(t testing.TB, variant string) string {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the folder of the C sources isn't known")
	}
	command := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml")
	command.Dir = filepath.Dir(here)
	dir, err := command.Output()
	if err != nil {
		t.Fatalf("find NVML's header: %v", err)
	}
	flags := []string{"-I", filepath.Join(strings.TrimSpace(string(dir)), "pkg/nvml"), "-Wno-deprecated-declarations"}
	if variant != "" {
		flags = append(flags, "-D"+variant)
	}
	return Build(t, "nvml", flags...)
}
