package docs

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	nounRow = regexp.MustCompile("(?m)^\\| ((?:`[a-z]+`(?:, )?)+) \\| ((?:`[a-z-]+`(?:, )?)+) \\|$")
	quoted  = regexp.MustCompile("`([a-z-]+)`")
	listed  = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)
)

// nouns reads the table of docs/cli.md: noun → verbs, sorted.
func nouns(page string) map[string][]string {
	words := func(cell string) []string {
		var out []string
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return out
	}
	out := map[string][]string{}
	for _, row := range nounRow.FindAllStringSubmatch(page, -1) {
		for _, noun := range words(row[1]) {
			out[noun] = words(row[2])
		}
	}
	return out
}

// verbs reads the list of commands in a help text, sorted.
func verbs(help string) []string {
	_, list, _ := strings.Cut(help, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	var out []string
	for _, m := range listed.FindAllStringSubmatch(list, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return out
}

func TestCommandPage(t *testing.T) {
	bin := filepath.Join(drover(t), "drover")
	page := nouns(pages(t)["docs/cli.md"])
	if len(page) < 5 {
		t.Fatalf("docs/cli.md: found only the nouns %v", page)
	}
	help := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), bin, append(args, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("drover %v --help: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for noun, want := range page {
		if got := verbs(help(noun)); !slices.Equal(got, want) {
			t.Errorf("drover %s has the verbs %v, docs/cli.md says %v", noun, got, want)
		}
	}
	content := pages(t)["docs/cli.md"]
	for _, command := range verbs(help()) {
		if page[command] == nil && !strings.Contains(content, "`drover "+command) {
			t.Errorf("docs/cli.md doesn't speak of drover %s", command)
		}
	}
}

func TestCommandPageCanFail(t *testing.T) {
	got := nouns("| noun | verbs |\n| --- | --- |\n| `flavor`, `pool` | `list`, `create` |\n| not | `one` |\n")
	for _, noun := range []string{"flavor", "pool"} {
		if !slices.Equal(got[noun], []string{"create", "list"}) {
			t.Errorf("%s: %v", noun, got[noun])
		}
	}
	if len(got) != 2 {
		t.Errorf("nouns %v", got)
	}
	help := "Use it.\n\nAvailable Commands:\n  show        Show one\n  list        List all\n\nFlags:\n  other  x\n"
	if got := verbs(help); !slices.Equal(got, []string{"list", "show"}) {
		t.Errorf("verbs %v", got)
	}
}
