package vendorlib

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Build compiles the sources in the folder name with flags and answers the path of the library, in a folder of
// its own: the loader takes each for another one.
func Build(t testing.TB, name string, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skipf("NOT TESTED: the fake %s library needs a C compiler, and there is no cc: %v", name, err)
	}
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the folder of the C sources isn't known")
	}
	sources, err := filepath.Glob(filepath.Join(filepath.Dir(here), name, "*.c"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("no C sources of %s: %v", name, err)
	}
	path := filepath.Join(t.TempDir(), map[string]string{"nvml": "libnvidia-ml.so.1", "dcmi": "libdcmi.so"}[name])
	args := append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", path}, flags...)
	if said, err := exec.Command(cc, append(append(args, sources...), "-ldl")...).CombinedOutput(); err != nil {
		t.Fatalf("compile the fake %s library: %v\n%s", name, err, said)
	}
	return path
}
