package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source is one parsed, hand-written file that isn't a test.
type source struct {
	path string // from the module's root
	fset *token.FileSet
	file *ast.File
}

func parse(path string, content []byte) (source, error) {
	s := source{path: path, fset: token.NewFileSet()}
	var err error
	s.file, err = parser.ParseFile(s.fset, path, content, parser.ParseComments|parser.SkipObjectResolution)
	return s, err
}

// loadSources parses what the packages of the graph are made of.
func loadSources(t *testing.T, g graph) []source {
	t.Helper()
	var out []source
	for _, p := range g.Packages {
		for _, name := range p.Files {
			content, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			s, err := parse(path.Join(p.Path, name), content)
			if err != nil {
				t.Errorf("%v", err)
			} else if !ast.IsGenerated(s.file) {
				out = append(out, s)
			}
		}
	}
	return out
}

func (s source) line(p token.Pos) int { return s.fset.Position(p).Line }

// lengthFindings returns the files and functions that are too long and not excused, and the excuses that
// nothing needs any more.
func lengthFindings(sources []source, longFiles, longFuncs map[string]string) []string {
	var found []string
	used := map[string]bool{}
	for _, s := range sources {
		if n := s.line(s.file.FileEnd); n > maxFileLines {
			used[s.path] = true
			if longFiles[s.path] == "" {
				found = append(found, fmt.Sprintf("%s: %d lines, at most %d", s.path, n, maxFileLines))
			}
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			name := s.path + ": " + funcName(fn)
			if n := s.line(fn.End()) - s.line(fn.Pos()) + 1; n > maxFuncLines {
				used[name] = true
				if longFuncs[name] == "" {
					found = append(found, fmt.Sprintf("%s: %d lines, at most %d", name, n, maxFuncLines))
				}
			}
		}
	}
	for _, excuses := range []map[string]string{longFiles, longFuncs} {
		for name := range excuses {
			if !used[name] {
				found = append(found, fmt.Sprintf("%s is excused, and isn't too long (any more)", name))
			}
		}
	}
	slices.Sort(found)
	return found
}

func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	recv := fn.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if index, ok := recv.(*ast.IndexExpr); ok {
		recv = index.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

// clockless packages compute from what they are given: replay must come to the same result.
var clockless = []string{"scheduler/state", "scheduler/place"}

var clockCalls = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

func clockFindings(sources []source) []string {
	var found []string
	for _, s := range sources {
		if !withinAny(path.Dir(s.path), clockless) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == "time" && slices.Contains(clockCalls, sel.Sel.Name) {
				found = append(found, fmt.Sprintf("%s:%d: time.%s: the proposer puts times into the command", s.path, s.line(sel.Pos()), sel.Sel.Name))
			}
			return true
		})
	}
	return found
}

// initFindings: no init functions; what must be registered is handed over by cmd.
func initFindings(sources []source) []string {
	var found []string
	for _, s := range sources {
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, fmt.Sprintf("%s:%d: an init function: pass it in from cmd", s.path, s.line(fn.Pos())))
			}
		}
	}
	return found
}

// docFindings: every package of hand-written code has a doc.go that starts with its name; a package of one
// file may say it there.
func docFindings(g graph, sources []source) []string {
	files := map[string][]source{}
	for _, s := range sources {
		files[path.Dir(s.path)] = append(files[path.Dir(s.path)], s)
	}
	var found []string
	for _, p := range g.Packages {
		var doc *ast.File
		for _, s := range files[p.Path] {
			if path.Base(s.path) == "doc.go" || len(files[p.Path]) == 1 && s.file.Doc != nil {
				doc = s.file
			}
		}
		if len(files[p.Path]) == 0 {
			continue
		}
		start := "Package " + p.Name + " "
		if p.Name == "main" {
			start = "Command " + path.Base(p.Path) + " "
		}
		switch {
		case doc == nil:
			found = append(found, p.Path+": no doc.go")
		case !strings.HasPrefix(doc.Doc.Text(), start):
			found = append(found, fmt.Sprintf("%s: the package comment must start with %q", p.Path, start))
		}
	}
	return found
}

func TestCode(t *testing.T) {
	g := loadGraph(t)
	sources := loadSources(t, g)
	for rule, found := range map[string][]string{
		"length": lengthFindings(sources, longFiles, longFuncs),
		"clock":  clockFindings(sources),
		"init":   initFindings(sources),
		"doc":    docFindings(g, sources),
	} {
		t.Run(rule, func(t *testing.T) {
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

func TestCodeRulesCanFail(t *testing.T) {
	file := func(path, content string) source {
		t.Helper()
		s, err := parse(path, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	long := file("agent/x.go", "package agent\nfunc (a *Agent[T]) Run() {\n"+strings.Repeat("a()\n", maxFuncLines)+"}\n")
	for name, c := range map[string]struct{ got, want []string }{
		"length of a function": {lengthFindings([]source{long}, nil, nil), []string{"agent/x.go: Agent.Run: 62 lines, at most 60"}},
		"length of a file": {lengthFindings([]source{file("agent/y.go", "package agent\n"+strings.Repeat("// y\n", maxFileLines))}, nil, nil),
			[]string{"agent/y.go: 451 lines, at most 450"}},
		"an excuse":                {lengthFindings([]source{long}, nil, map[string]string{"agent/x.go: Agent.Run": "a table"}), nil},
		"an excuse without reason": {lengthFindings([]source{long}, nil, map[string]string{"agent/x.go: Agent.Run": ""}), []string{"agent/x.go: Agent.Run: 62 lines, at most 60"}},
		"an excuse for nothing":    {lengthFindings(nil, map[string]string{"gone.go": "long"}, nil), []string{"gone.go is excused, and isn't too long (any more)"}},
		"clock": {clockFindings([]source{file("scheduler/state/x.go", "package state\nvar _ = time.Now()\n"), file("agent/x.go", "package agent\nvar _ = time.Now()\n"),
			file("scheduler/state/ok.go", "package state\nvar _ = time.Second\n")}),
			[]string{"scheduler/state/x.go:2: time.Now: the proposer puts times into the command"}},
		"init": {initFindings([]source{file("agent/x.go", "package agent\nfunc init() {}\nfunc (a A) init() {}\n")}),
			[]string{"agent/x.go:2: an init function: pass it in from cmd"}},
		"doc": {docFindings(graph{Packages: []pkg{{Path: "a", Name: "a"}, {Path: "b", Name: "b"}, {Path: "c", Name: "c"}, {Path: "cmd/d", Name: "main"}, {Path: "e", Name: "e"}, {Path: "gen", Name: "gen"}}},
			[]source{file("a/a.go", "package a"), file("b/doc.go", "// Package b is.\npackage b"), file("c/doc.go", "package c"), file("cmd/d/doc.go", "// Package main is.\npackage main"),
				file("e/e.go", "// Package e is.\npackage e")}),
			[]string{"a: no doc.go", `c: the package comment must start with "Package c "`, `cmd/d: the package comment must start with "Command d "`}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: found %q, want %q", name, c.got, c.want)
		}
	}
}
