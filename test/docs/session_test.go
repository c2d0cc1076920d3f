package docs

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	commandTimeout = 3 * time.Minute
	stopTimeout    = time.Minute
)

// session runs the commands of one page's session. Its daemons live until close.
type session struct {
	dir     string
	env     []string
	daemons []*process
}

// run executes one block and returns what went wrong, with the command and its output.
func (s *session) run(ctx context.Context, b block) error {
	if b.Daemon {
		return s.start(ctx, b.Commands[0])
	}
	for _, c := range b.Commands {
		cctx, cancel := context.WithTimeout(ctx, commandTimeout)
		p, err := s.spawn(cctx, c)
		if err == nil {
			err = p.wait()
		}
		cancel()
		if err != nil {
			return fmt.Errorf("line %d: %s: %w\n%s", c.Line, c.Text, err, p.output())
		}
		if missing, ok := match(c.Want, p.output()); !ok {
			return fmt.Errorf("line %d: %s: the output lacks %q:\n%s", c.Line, c.Text, missing, p.output())
		}
	}
	return nil
}

// start starts a daemon and waits until its output holds the lines that the page shows.
func (s *session) start(ctx context.Context, c command) error {
	p, err := s.spawn(context.WithoutCancel(ctx), c) // close ends it, after the test's context has ended
	if err != nil {
		return fmt.Errorf("line %d: %s: %w", c.Line, c.Text, err)
	}
	s.daemons = append(s.daemons, p)
	timeout := time.NewTimer(commandTimeout)
	defer timeout.Stop()
	for {
		grown := p.grown()
		missing, ok := match(c.Want, p.output())
		if ok {
			return nil
		}
		select {
		case <-grown:
		case <-p.done:
			return fmt.Errorf("line %d: %s: ended (%s) before it said %q:\n%s", c.Line, c.Text, p.cmd.ProcessState, missing, p.output())
		case <-timeout.C:
			return fmt.Errorf("line %d: %s: after %v it hasn't said %q:\n%s", c.Line, c.Text, commandTimeout, missing, p.output())
		}
	}
}

// close interrupts the daemons, last one first, and returns the first that didn't end by itself.
func (s *session) close() error {
	var first error
	for i := len(s.daemons) - 1; i >= 0; i-- {
		p := s.daemons[i]
		if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil && first == nil {
			first = fmt.Errorf("interrupt %s: %w", p.text, err)
		}
		timeout := time.NewTimer(stopTimeout)
		select {
		case <-p.done:
		case <-timeout.C:
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
			if first == nil {
				first = fmt.Errorf("%s: killed: it was still there %v after SIGINT:\n%s", p.text, stopTimeout, p.output())
			}
		}
		timeout.Stop()
	}
	s.daemons = nil
	return first
}

// process is one command in a process group of its own, and what it wrote.
type process struct {
	text string
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended; err is set before
	err  error

	mu     sync.Mutex
	buf    bytes.Buffer
	signal chan struct{} // closed and replaced when buf grows
}

func (s *session) spawn(ctx context.Context, c command) (*process, error) {
	p := &process{text: c.Text, done: make(chan struct{}), signal: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", c.Text)
	p.cmd.Dir, p.cmd.Env = s.dir, s.env
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return p, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) wait() error {
	<-p.done
	return p.err
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.signal)
	p.signal = make(chan struct{})
	return p.buf.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.String()
}

// grown returns a channel that is closed at the next output.
func (p *process) grown() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signal
}

// match reports whether the output holds the wanted lines in their order, or the first that's missing.
func match(want []string, output string) (missing string, ok bool) {
	lines := strings.Split(output, "\n")
	for _, w := range want {
		if strings.TrimSpace(w) == "…" {
			continue
		}
		pattern := linePattern(w)
		found := false
		for len(lines) > 0 && !found {
			found = pattern.MatchString(strings.Join(strings.Fields(lines[0]), " "))
			lines = lines[1:]
		}
		if !found {
			return w, false
		}
	}
	return "", true
}

func linePattern(line string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(strings.Join(strings.Fields(line), " "))
	return regexp.MustCompile("^" + strings.ReplaceAll(quoted, "…", ".*") + "$")
}

func TestMatch(t *testing.T) {
	output := "NAME   STATE\niris   Running\nother  Stopped\n"
	for _, c := range []struct {
		want    []string
		missing string
	}{
		{nil, ""},
		{[]string{"NAME STATE", "…", "other Stopped"}, ""},
		{[]string{"iris   Run…"}, ""},
		{[]string{"iris Run"}, "iris Run"},
		{[]string{"iris Running", "NAME STATE"}, "NAME STATE"},
		{[]string{"other …", "…", "more"}, "more"},
	} {
		missing, ok := match(c.want, output)
		if missing != c.missing || ok != (c.missing == "") {
			t.Errorf("%q: missing %q (%v), want %q", c.want, missing, ok, c.missing)
		}
	}
}

func TestSession(t *testing.T) {
	run := func(page string) error {
		blocks, err := extract(page)
		if err != nil {
			t.Fatal(err)
		}
		s := &session{dir: t.TempDir(), env: []string{"PATH=/usr/bin:/bin", "GREETING=hello"}}
		for _, b := range blocks {
			if err == nil {
				err = s.run(t.Context(), b)
			}
		}
		if cerr := s.close(); err == nil {
			err = cerr
		}
		return err
	}
	page := "```console test=a daemon\n$ mkfifo p; echo up; read -r line <p; echo got $line; sleep 1000\nup\n```\n" +
		"```console test=a\n$ echo $GREETING >p\n$ echo x; \\\n  echo y\ny\n```\n"
	// The interrupted sleep ends by the signal: that's an end.
	if err := run(page); err != nil {
		t.Error(err)
	}
	for page, want := range map[string]string{
		"```console test=a\n$ false\n```":                          "line 2: false: exit status 1",
		"```console test=a\n$ false | true\n```":                   "exit status 1",
		"```console test=a\n$ echo a\nb\n```":                      `line 2: echo a: the output lacks "b"`,
		"```console test=a daemon\n$ echo a\nb\n```":               `ended (exit status 0) before it said "b"`,
		"```console test=a\n$ echo out; echo bad >&2; exit 3\n```": "exit status 3\nout\nbad",
	} {
		if err := run(page); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", page, err, want)
		}
	}
}
