package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	family    = regexp.MustCompile(`^drover_[a-z0-9_]+$`)
	familyRow = regexp.MustCompile("(?m)^\\| `(drover_[a-z0-9_]+)` \\|")
)

// families returns the names of metrics among the string literals of a Go file.
func families(file *ast.File) []string {
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && family.MatchString(s) {
				out = append(out, s)
			}
		}
		return true
	})
	return out
}

// TestMetricsPage compares docs/metrics.md with the names that the daemons' code holds.
func TestMetricsPage(t *testing.T) {
	var code []string
	for _, dir := range []string{"agent", "scheduler"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			code = append(code, families(file)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var page []string
	for _, m := range familyRow.FindAllStringSubmatch(pages(t)["docs/metrics.md"], -1) {
		page = append(page, m[1])
	}
	for _, name := range code {
		if !slices.Contains(page, name) {
			t.Errorf("docs/metrics.md has no row for %s", name)
		}
	}
	for _, name := range page {
		if !slices.Contains(code, name) {
			t.Errorf("docs/metrics.md: nothing reports %s", name)
		}
	}
}

func TestFamilies(t *testing.T) {
	src := "package x\nvar a = \"drover_x_total\"\nvar b = `drover_y`\nvar c = \"drover_ z\"\n// \"drover_comment\"\n"
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := families(file); !slices.Equal(got, []string{"drover_x_total", "drover_y"}) {
		t.Errorf("got %v", got)
	}
}
