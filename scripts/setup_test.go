package scripts_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a made-up machine: a directory that stands for /, whose programs are shims that log their
// arguments, and a PATH that leads nowhere else.
type machine struct {
	t    *testing.T
	root string
}

// The packages of every purpose, and the file each of them brings.
var packageFiles = map[string]string{
	"containerd": "usr/bin/containerd", "runc": "usr/sbin/runc", "iptables": "usr/sbin/iptables",
	"containernetworking-plugins": "usr/lib/cni/portmap",
	"gcc":                         "usr/bin/gcc", "libc6-dev": "usr/include/stdlib.h",
	"ca-certificates": "etc/ssl/certs/ca-certificates.crt",
	"iproute2":        "usr/sbin/ip", "strace": "usr/bin/strace", "curl": "usr/bin/curl",
	"systemd": "usr/bin/systemd-analyze", "shellcheck": "usr/bin/shellcheck",
}

func newMachine(t *testing.T, uid, osRelease string) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	for _, tool := range []string{"bash", "dirname", "awk", "grep", "sed", "cat", "rm", "mktemp", "touch", "mkdir", "chmod"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatalf("the test needs %s: %v", tool, err)
		}
		m.write("usr/bin/"+tool, "#!/bin/sh\nexec "+path+" \"$@\"\n")
	}
	m.write("usr/bin/id", "#!/bin/sh\necho "+uid+"\n")
	m.write("usr/bin/go", "#!/bin/sh\necho go \"$@\" >>"+m.root+"/log\n")
	m.write("etc/os-release", osRelease)
	return m
}

func (m *machine) write(path, content string) {
	m.t.Helper()
	full := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// apt gives the machine an apt-get whose install brings the packages' files.
func (m *machine) apt() {
	var b strings.Builder
	b.WriteString("#!/bin/bash\necho apt-get \"$@\" >>" + m.root + "/log\n[[ $1 == install ]] || exit 0\nfor p; do case $p in\n")
	for pkg, file := range packageFiles {
		full := filepath.Join(m.root, file)
		b.WriteString(pkg + ") mkdir -p " + filepath.Dir(full) + "; touch " + full + "; chmod +x " + full + " ;;\n")
	}
	b.WriteString("esac; done\n")
	m.write("usr/bin/apt-get", b.String())
}

func (m *machine) setup(purposes ...string) (output string, code int) {
	m.t.Helper()
	cmd := exec.Command("./setup", purposes...)
	cmd.Env = []string{"PATH=" + m.root + "/usr/bin", "SETUP_ROOT=" + m.root, "TMPDIR=" + m.t.TempDir()}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (m *machine) log() string {
	b, err := os.ReadFile(filepath.Join(m.root, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return string(b)
}

const (
	debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"
	fedora = "ID=fedora\n"
)

func TestInstallsWhatIsMissing(t *testing.T) {
	m := newMachine(t, "0", debian)
	m.apt()
	m.write("usr/bin/gcc", "#!/bin/sh\n")
	out, code := m.setup("run", "build", "test")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	want := "apt-get update\napt-get install -y --no-install-recommends containerd runc containernetworking-plugins iptables libc6-dev ca-certificates iproute2 strace curl\ngo mod download\n"
	if got := m.log(); got != want {
		t.Errorf("commands run:\n%swant:\n%s", got, want)
	}
	if !strings.Contains(out, "installing from Debian's packages: containerd runc") {
		t.Errorf("didn't say what it installs: %q", out)
	}
}

func TestNothingMissingTouchesNothing(t *testing.T) {
	// Neither root nor Debian matters then.
	m := newMachine(t, "1000", fedora)
	for _, file := range packageFiles {
		m.write(file, "#!/bin/sh\n")
	}
	out, code := m.setup("run", "build", "test", "lint")
	if code != 0 || out != "" {
		t.Fatalf("exit %d, said %q", code, out)
	}
	if got := m.log(); got != "go mod download\n" {
		t.Errorf("commands run: %q", got)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, uid, os string
		prepare       func(*machine)
		want          string
	}{
		{"not root", "1000", debian, (*machine).apt, "setup: not root, and something is missing; as root, install by hand: gcc libc6-dev ca-certificates\n"},
		{"not Debian", "0", fedora, (*machine).apt, "setup: not Debian, and something is missing; install by hand: gcc libc6-dev ca-certificates\n"},
		{"no apt-get", "0", debian, func(*machine) {}, "setup: not Debian, and something is missing; install by hand: gcc libc6-dev ca-certificates\n"},
		{"apt-get fails", "0", debian, func(m *machine) {
			m.write("usr/bin/apt-get", "#!/bin/sh\necho Temporary failure resolving\nexit 100\n")
		}, "setup: apt-get failed (no network?); install by hand: gcc libc6-dev ca-certificates\n"},
		{"apt-get brings nothing", "0", debian, func(m *machine) {
			m.write("usr/bin/apt-get", "#!/bin/sh\n")
		}, "setup: installed, but still not usable: gcc libc6-dev ca-certificates\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, c.uid, c.os)
			c.prepare(m)
			out, code := m.setup("build")
			if code != 1 || !strings.HasSuffix(out, c.want) {
				t.Errorf("exit %d, said %q, want it to end with %q", code, out, c.want)
			}
			if strings.Contains(m.log(), "go mod") {
				t.Error("went on to fetch modules")
			}
		})
	}
}

func TestGoTrouble(t *testing.T) {
	ready := func(t *testing.T) *machine {
		m := newMachine(t, "0", debian)
		for _, file := range packageFiles {
			m.write(file, "#!/bin/sh\n")
		}
		return m
	}
	t.Run("no Go", func(t *testing.T) {
		m := ready(t)
		if err := os.Remove(filepath.Join(m.root, "usr/bin/go")); err != nil {
			t.Fatal(err)
		}
		out, code := m.setup("build")
		if code != 1 || !strings.Contains(out, "Go is missing; install by hand: Go 1.") {
			t.Errorf("exit %d, said %q", code, out)
		}
	})
	t.Run("no network", func(t *testing.T) {
		m := ready(t)
		m.write("usr/bin/go", "#!/bin/sh\necho dial tcp: >&2\necho no such host >&2\nexit 1\n")
		out, code := m.setup("build")
		want := "setup: could not fetch the Go modules (no network?); by hand: go mod download; Go said: dial tcp: no such host\n"
		if code != 1 || out != want {
			t.Errorf("exit %d, said %q, want %q", code, out, want)
		}
	})
}

func TestUsage(t *testing.T) {
	m := newMachine(t, "0", debian)
	if out, code := m.setup(); code != 1 || !strings.Contains(out, "usage:") {
		t.Errorf("no argument: exit %d, said %q", code, out)
	}
	if out, code := m.setup("dance"); code != 1 || !strings.Contains(out, "no such purpose: dance") {
		t.Errorf("unknown purpose: exit %d, said %q", code, out)
	}
	if m.log() != "" {
		t.Errorf("ran %q", m.log())
	}
}
