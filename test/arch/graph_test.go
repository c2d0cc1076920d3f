package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/drover-fleet/drover"

// pkg is what the rules know of a package. Paths are those of imports, as short names them: a package of
// this module without the module's path ("scheduler/state").
type pkg struct {
	Path        string
	Name        string
	Dir         string
	Files       []string // without tests
	Imports     []string // without tests
	TestImports []string
	Deps        []string // transitive, without tests
}

// graph is this module's packages, and the module of every import outside of it and the standard library.
type graph struct {
	Packages []pkg
	ModuleOf map[string]string
}

// loadGraph lists the whole module once.
func loadGraph(t *testing.T) graph {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-test",
		"-json=ImportPath,Name,Dir,ForTest,GoFiles,CgoFiles,Imports,TestImports,XTestImports,Deps,Module,Error", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	g := graph{ModuleOf: map[string]string{}}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		switch {
		case p.Module == nil || p.ForTest != "" || strings.HasSuffix(p.ImportPath, ".test"):
		case !p.Module.Main:
			g.ModuleOf[p.ImportPath] = p.Module.Path
		default:
			if p.Error != nil {
				t.Errorf("%s doesn't load: %s", p.ImportPath, p.Error.Err)
			}
			g.Packages = append(g.Packages, p.pkg())
		}
	}
	if len(g.Packages) < 10 {
		t.Fatalf("go list found only %d packages", len(g.Packages))
	}
	return g
}

// listed is one record of `go list -json`.
type listed struct {
	ImportPath, Name, Dir, ForTest     string
	GoFiles, CgoFiles                  []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
	Module                             *struct {
		Path string
		Main bool
	}
	Error *struct{ Err string }
}

func (p listed) pkg() pkg {
	return pkg{
		Path: short(p.ImportPath), Name: p.Name, Dir: p.Dir,
		Files:       append(p.GoFiles, p.CgoFiles...),
		Imports:     shortAll(p.Imports),
		TestImports: shortAll(append(p.TestImports, p.XTestImports...)),
		Deps:        shortAll(p.Deps),
	}
}

// short names a package as the rules do. The standard library's runtime would look like ours.
func short(path string) string {
	switch own, ok := strings.CutPrefix(path, module+"/"); {
	case ok:
		return own
	case path == module:
		return "."
	case within(path, "runtime"):
		return "std/" + path
	default:
		return path
	}
}

func shortAll(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = short(p)
	}
	return out
}

// ours reports whether an import is of this module.
func (g graph) ours(path string) bool {
	for _, p := range g.Packages {
		if p.Path == path {
			return true
		}
	}
	return false
}

// within reports whether path is root or below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

func withinAny(path string, roots []string) bool {
	for _, r := range roots {
		if within(path, r) {
			return true
		}
	}
	return false
}
