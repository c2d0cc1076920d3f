package arch

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// machinePath is a path that exists on somebody's machine, and on nobody else's.
var machinePath = regexp.MustCompile(`(?:^|[^\w.$}/-])/(?:root|home|Users|work|workspace)/[\w.-]+`)

// textFindings looks for paths of a machine and for the names of hosts in one file.
func textFindings(path string, content []byte, hosts []string) []string {
	if bytes.IndexByte(content, 0) >= 0 {
		return nil // not text
	}
	var found []string
	for i, line := range strings.Split(string(content), "\n") {
		if m := machinePath.FindString(line); m != "" && absolutePaths[path] == "" {
			found = append(found, fmt.Sprintf("%s:%d: a path of somebody's machine: %s", path, i+1, strings.TrimSpace(m)))
		}
		for _, h := range hosts {
			if strings.Contains(line, h) {
				found = append(found, fmt.Sprintf("%s:%d: the name of this machine's module proxy", path, i+1))
			}
		}
	}
	return found
}

// proxyHosts are the hosts that this machine fetches modules from, unless everybody does.
func proxyHosts(goproxy string) []string {
	var hosts []string
	for _, p := range strings.FieldsFunc(goproxy, func(r rune) bool { return r == ',' || r == '|' }) {
		if u, err := url.Parse(p); err == nil && u.Hostname() != "" && u.Hostname() != "proxy.golang.org" {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// walkText calls fn for every file of the repository that isn't built or fetched.
func walkText(t *testing.T, fn func(path string, content []byte)) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "bin"}, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || rel == ".git" { // which is a file in a linked work tree
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fn(rel, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestText(t *testing.T) {
	goproxy, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	hosts := proxyHosts(strings.TrimSpace(string(goproxy)))
	walkText(t, func(path string, content []byte) {
		for _, f := range textFindings(path, content, hosts) {
			t.Error(f)
		}
	})
}

func TestTextRulesCanFail(t *testing.T) {
	hosts := proxyHosts("https://user:secret@goproxy.example.net/x,https://proxy.golang.org,direct")
	if !slices.Equal(hosts, []string{"goproxy.example.net"}) {
		t.Fatalf("hosts %q", hosts)
	}
	for text, want := range map[string]int{
		"see /root/notes":               1,
		"cd /home/jo/drover":            1,
		"GOPROXY=goproxy.example.net":   1,
		"/var/lib/drover /etc/drover/x": 0,
		"$HOME/work/x and a/home/b":     0,
		"GET /v1/{project}/work/x":      0,
		"\x00/root/binary":              0,
	} {
		if found := textFindings("docs/x.md", []byte(text), hosts); len(found) != want {
			t.Errorf("%q: found %q, want %d", text, found, want)
		}
	}
}
