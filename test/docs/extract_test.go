package docs

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// block is one fenced block of commands.
type block struct {
	Line     int // of its fence
	Session  string
	Daemon   bool
	Untested string
	Commands []command
}

type command struct {
	Line int
	Text string
	Want []string // shown output, without blank lines
}

var (
	fence   = regexp.MustCompile("^ {0,3}```+(.*)$")
	attribs = regexp.MustCompile(`^(?:test=([\w-]+)( daemon)?|untested="([^"]+)")$`)
)

// extract returns the blocks of commands of one page, or what's wrong with the page's first bad one.
func extract(page string) ([]block, error) {
	var blocks []block
	var current *block
	inside := false
	for i, line := range strings.Split(page, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && inside:
			if current != nil {
				if err := current.check(); err != nil {
					return nil, err
				}
				blocks = append(blocks, *current)
			}
			inside, current = false, nil
		case m != nil:
			inside = true
			var err error
			if current, err = open(i+1, strings.TrimSpace(m[1])); err != nil {
				return nil, err
			}
		case current != nil:
			if err := current.add(i+1, line); err != nil {
				return nil, err
			}
		}
	}
	if inside {
		return nil, fmt.Errorf("a block is never closed")
	}
	return blocks, nil
}

// open starts a block; it returns nil for a language that holds no commands.
func open(line int, info string) (*block, error) {
	language, rest, _ := strings.Cut(info, " ")
	switch language {
	case "sh", "bash", "shell":
		return nil, fmt.Errorf("line %d: a block of %s: commands stand in console blocks", line, language)
	case "console":
	default:
		return nil, nil
	}
	m := attribs.FindStringSubmatch(strings.TrimSpace(rest))
	if m == nil {
		return nil, fmt.Errorf("line %d: console block with %q: want test=NAME, test=NAME daemon or untested=\"REASON\"", line, rest)
	}
	return &block{Line: line, Session: m[1], Daemon: m[2] != "", Untested: m[3]}, nil
}

func (b *block) add(line int, text string) error {
	last := len(b.Commands) - 1
	if last >= 0 && strings.HasSuffix(b.Commands[last].Text, "\\") {
		b.Commands[last].Text = strings.TrimSuffix(b.Commands[last].Text, "\\") + strings.TrimSpace(text)
		return nil
	}
	if c, ok := strings.CutPrefix(text, "$ "); ok {
		b.Commands = append(b.Commands, command{Line: line, Text: c})
		return nil
	}
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if last < 0 {
		return fmt.Errorf("line %d: output before the first command", line)
	}
	b.Commands[last].Want = append(b.Commands[last].Want, text)
	return nil
}

func (b *block) check() error {
	switch {
	case len(b.Commands) == 0:
		return fmt.Errorf("line %d: console block without a command", b.Line)
	case b.Daemon && (len(b.Commands) != 1 || len(b.Commands[0].Want) == 0):
		return fmt.Errorf("line %d: a daemon block holds one command and the output that says it's ready", b.Line)
	}
	return nil
}

func TestExtract(t *testing.T) {
	page := strings.Join([]string{
		"# Page", "```yaml", "$ not: a command", "```",
		"```console test=start daemon", "$ drover dev", "ready", "```",
		"```console test=start", "$ one \\", "    --flag", "out …", "", "$ two", "```",
		"  ```console untested=\"needs systemd\"", "  $ x", "$ systemctl start x", "```",
	}, "\n")
	_, err := extract(page)
	if err == nil || err.Error() != "line 17: output before the first command" {
		t.Fatalf("an indented command: %v", err)
	}
	got, err := extract(strings.ReplaceAll(page, "  $ x\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	want := []block{
		{Line: 5, Session: "start", Daemon: true, Commands: []command{{Line: 6, Text: "drover dev", Want: []string{"ready"}}}},
		{Line: 9, Session: "start", Commands: []command{{Line: 10, Text: "one --flag", Want: []string{"out …"}}, {Line: 14, Text: "two"}}},
		{Line: 16, Untested: "needs systemd", Commands: []command{{Line: 17, Text: "systemctl start x"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestExtractRefuses(t *testing.T) {
	for page, want := range map[string]string{
		"```sh\nls\n```":                                `line 1: a block of sh: commands stand in console blocks`,
		"```console\n$ ls\n```":                         `line 1: console block with "": want`,
		"```console test=a deamon\n$ ls\n```":           `line 1: console block with "test=a deamon": want`,
		"```console untested=\"\"\n$ ls\n```":           `line 1: console block with "untested=\"\"": want`,
		"```console test=a\n```":                        `line 1: console block without a command`,
		"\n```console test=a daemon\n$ drover dev\n```": `line 2: a daemon block holds one command and the output`,
		"```console test=a\n$ ls\n":                     `a block is never closed`,
	} {
		if _, err := extract(page); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", page, err, want)
		}
	}
}
