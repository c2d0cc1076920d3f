package docs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// root is the repository's root, seen from this package.
const root = "../.."

func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"))
	out := map[string]string{}
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			t.Fatal(err)
		}
		out[rel] = string(content)
	}
	return out
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// linkFindings returns the links of a page that lead nowhere in the repository. exists takes a path from
// its root.
func linkFindings(page, content string, exists func(path string) bool) []string {
	var found []string
	for _, m := range link.FindAllStringSubmatch(content, -1) {
		target, _, _ := strings.Cut(m[1], "#")
		if target == "" || strings.Contains(target, "://") {
			continue
		}
		if p := filepath.Join(filepath.Dir(page), target); !exists(p) {
			found = append(found, fmt.Sprintf("%s: a link to %s, which doesn't exist", page, p))
		}
	}
	return found
}

func TestPagesAreSound(t *testing.T) {
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return err == nil
	}
	for name, content := range pages(t) {
		if _, err := extract(content); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range linkFindings(name, content, exists) {
			t.Error(f)
		}
	}
}

func TestLinksCanFail(t *testing.T) {
	exists := func(path string) bool { return path == "docs/cli.md" || path == "README.md" }
	content := "[a](cli.md#verbs) [b](../README.md) [c](#here) [d](https://example.com/x) [e](gone.md)"
	want := []string{"docs/x.md: a link to docs/gone.md, which doesn't exist"}
	if got := linkFindings("docs/x.md", content, exists); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// drover builds the binary of this tree and returns its directory.
func drover(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/drover")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/drover: %v\n%s", err, out)
	}
	return bin
}

// TestPagesWork runs every session of every page against the drover of this tree. The pages use the usual ports
// and directories: a network and a /var/lib of its own keep them apart from a drover dev of this machine and
// from other tests.
func TestPagesWork(t *testing.T) {
	if !containerdtest.OwnNetwork(t) {
		return
	}
	containerdtest.Outside(t) // an address besides the loopback's
	if err := unix.Mount(t.TempDir(), "/var/lib", "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("hide /var/lib: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/var/lib", 0); err != nil {
			t.Errorf("show /var/lib again: %v", err)
		}
	})
	bin := drover(t)
	for name, content := range pages(t) {
		blocks, err := extract(content)
		if err != nil {
			continue // TestPagesAreSound says it
		}
		for _, id := range sessionsOf(blocks) {
			t.Run(name+"/"+id, func(t *testing.T) { runSession(t, bin, blocks, id) })
		}
	}
}

func sessionsOf(blocks []block) []string {
	var ids []string
	for _, b := range blocks {
		if b.Session != "" && !slices.Contains(ids, b.Session) {
			ids = append(ids, b.Session)
		}
	}
	return ids
}

func runSession(t *testing.T, bin string, blocks []block, id string) {
	s := &session{dir: root, env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=")}
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} { // they would follow HOME
		dir, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		s.env = append(s.env, name+"="+strings.TrimSpace(string(dir)))
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat("/var/lib/drover-dev"); err == nil { // a drover dev that failed has left its containerd
			out, err := exec.Command(filepath.Join(bin, "drover"), "dev", "stop").CombinedOutput()
			t.Errorf("something was left in /var/lib/drover-dev; drover dev stop: %v\n%s", err, out)
		}
	})
	for _, b := range blocks {
		if b.Session != id {
			continue
		}
		if err := s.run(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}
