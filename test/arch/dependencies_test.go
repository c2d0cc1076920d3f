package arch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dependencyRow is a row of docs/dependencies.md: | `module` | why |.
var dependencyRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| *(\\S.*?) *\\|$")

// dependencyFindings compares the modules that are imported directly, tests included, with the rows.
func dependencyFindings(g graph, page string) []string {
	used := map[string]bool{}
	for _, p := range g.Packages {
		for _, imp := range append(slices.Clone(p.Imports), p.TestImports...) {
			if m := g.ModuleOf[imp]; m != "" {
				used[m] = true
			}
		}
	}
	explained := map[string]bool{}
	for _, row := range dependencyRow.FindAllStringSubmatch(page, -1) {
		explained[row[1]] = true
	}
	var found []string
	for m := range used {
		if !explained[m] {
			found = append(found, m+": a direct dependency without a row in docs/dependencies.md")
		}
	}
	for m := range explained {
		if !used[m] {
			found = append(found, m+": in docs/dependencies.md, and nothing imports it")
		}
	}
	slices.Sort(found)
	return found
}

func TestDependenciesAreExplained(t *testing.T) {
	page, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range dependencyFindings(loadGraph(t), string(page)) {
		t.Error(f)
	}
}

func TestDependencyRulesCanFail(t *testing.T) {
	g := graph{
		Packages: []pkg{{Path: "agent", Imports: []string{"a.org/x/sub", "fmt"}, TestImports: []string{"a.org/t"}}},
		ModuleOf: map[string]string{"a.org/x/sub": "a.org/x", "a.org/t": "a.org/t"},
	}
	found := dependencyFindings(g, "| `a.org/x` | |\n| `a.org/old` | was needed |\n| `a.org/t` | compares |\n")
	want := []string{"a.org/old: in docs/dependencies.md, and nothing imports it", "a.org/x: a direct dependency without a row in docs/dependencies.md"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q\nwant %q", strings.Join(found, "; "), strings.Join(want, "; "))
	}
}
