package arch

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

// layers says what each area of the tree may import of this module, besides itself. The longest area that
// a package is within counts; "=" before a name means that package alone, not what's below it.
var layers = map[string][]string{
	"proto":    {},
	"identity": {"proto"},
	"systemd":  {},
	"registry": {"proto"},
	"batch":    {"proto"},
	"client":   {"proto", "signature"},

	"client/direct": {"signature"},
	"signature":     {},

	"storage": {},

	"runtime":             {"proto"},
	"runtime/logfile":     {},
	"runtime/runtimetest": {"=runtime", "runtime/logfile"},
	"runtime/fake":        {"=runtime", "runtime/logfile"},
	"runtime/containerd":  {"=runtime", "runtime/logfile", "registry"},
	"devices":             {"proto"},

	"agent":     {"=runtime", "runtime/logfile", "=devices", "=storage", "batch", "identity", "proto"},
	"scheduler": {"registry", "=storage", "batch", "identity", "proto"},

	"scheduler/state":     {"proto"},
	"scheduler/place":     {"scheduler/state", "proto"},
	"scheduler/boltfile":  {},
	"scheduler/backup":    {"scheduler/authority", "scheduler/state", "proto"},
	"scheduler/events":    {"scheduler/state", "scheduler/boltfile", "proto"},
	"scheduler/raftstore": {"scheduler/state", "scheduler/boltfile", "identity", "proto"},
	"scheduler/gossip":    {"proto"},
	"scheduler/member":    {"scheduler/state", "scheduler/raftstore", "proto"},
	"scheduler/forward":   {"scheduler/raftstore", "proto"},
	"scheduler/auth":      {"scheduler/state", "identity", "signature", "proto"},
	"scheduler/authority": {"scheduler/state", "identity", "proto"},
	"scheduler/session":   {"scheduler/state", "identity", "proto"},
	"scheduler/reconcile": {"scheduler/state", "scheduler/place", "proto"},
	"scheduler/jobs":      {"scheduler/state", "=storage", "batch", "identity", "proto"},
	"scheduler/lookup":    {"scheduler/state", "scheduler/auth", "proto"},

	// What puts things together.
	"cmd":           {"agent", "batch", "scheduler", "client", "identity", "proto", "registry", "systemd", "runtime", "devices", "=storage"},
	"examples":      {},
	"examples/demo": {"examples/iris", "client", "proto"},
	"scripts":       {},
	"test":          {"signature", "storage", "batch", "agent", "scheduler", "client", "identity", "proto", "registry", "systemd", "runtime", "devices", "cmd"},
}

// implementations are chosen in cmd; everything else sees the interface beside them.
var implementations = []string{
	"runtime/containerd", "runtime/fake", "devices/nvidia", "devices/ascend", "devices/probe", "devices/fake", "devices/attach",
}

// confined names the only places that may import something.
var confined = []struct {
	what  string // import path, and all below it
	where []string
	why   string
}{
	{"github.com/hashicorp/raft", []string{"scheduler/raftstore"}, "one package knows Raft's rules"},
	{"github.com/hashicorp/raft-boltdb", []string{"scheduler/raftstore"}, "one package knows Raft's log"},
	{"github.com/hashicorp/memberlist", []string{"scheduler/gossip"}, "gossip is never the truth about anything"},
	{"github.com/tidwall/btree", []string{"scheduler/state"}, "tables and indexes are the store's own"},
	{"github.com/containerd/containerd", []string{"runtime/containerd", "test"}, "the agent sees the runtime interface alone"},
	{"github.com/containerd/go-cni", []string{"runtime/containerd", "test"}, "the agent sees the runtime interface alone"},
	{"github.com/minio/minio-go", []string{"storage"}, "one package knows object storage"},
	{"github.com/miekg/dns", []string{"scheduler/lookup/dns"}, "one package knows the wire format"},
	{"github.com/spf13/cobra", []string{"cmd"}, "flags are read in cmd alone"},
	{"github.com/coreos/go-systemd", []string{"systemd"}, "one package speaks to the service manager"},
}

// barred names what a package must not import directly, though its layer would allow it.
var barred = []struct {
	where string
	what  []string
	why   string
}{
	{"scheduler/place", []string{"time", "google.golang.org/grpc", "os", "net", "math/rand", "math/rand/v2", "log/slog"}, "placement is a pure function"},
	{"batch", []string{"time", "google.golang.org/grpc", "os", "net", "net/http", "math/rand", "math/rand/v2", "log/slog"}, "formats are pure"},
	{"client/direct", []string{"google.golang.org/grpc", "google.golang.org/protobuf/proto"}, "whoever calls over HTTP links no gRPC"},
	{"scheduler/state", []string{"google.golang.org/grpc", "os", "net", "math/rand", "math/rand/v2", "crypto/rand", "github.com/google/uuid"}, "applying a command decides nothing"},
}

var forbiddenNames = []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "misc", "shared", "lib", "base", "internal"}

// importFindings applies every rule about imports.
func importFindings(g graph) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, p := range g.Packages {
		found = append(found, layerFindings(g, p)...)
		for _, imp := range p.Imports {
			if withinAny(imp, implementations) && !withinAny(p.Path, append([]string{"cmd", "test", imp}, parents(imp)...)) {
				add("%s imports the implementation %s: choose it in cmd", p.Path, imp)
			}
		}
		for _, c := range confined {
			for _, imp := range append(slices.Clone(p.Imports), p.TestImports...) {
				if within(imp, c.what) && !withinAny(p.Path, c.where) {
					add("%s imports %s: only %s may (%s)", p.Path, imp, strings.Join(c.where, ", "), c.why)
				}
			}
		}
		if slices.Contains(p.Imports, "testing") && !forTests(p.Path) {
			add("%s imports testing: the product links no test code", p.Path)
		}
		for _, b := range barred {
			for _, imp := range p.Imports {
				if within(p.Path, b.where) && slices.Contains(b.what, imp) {
					add("%s imports %s: %s", p.Path, imp, b.why)
				}
			}
		}
		for _, side := range [][2]string{{"agent", "scheduler"}, {"scheduler", "agent"}} {
			for _, dep := range p.Deps {
				if within(p.Path, side[0]) && within(dep, side[1]) {
					add("%s depends on %s: agent and scheduler meet in the protocol alone", p.Path, dep)
				}
			}
		}
		for name := range strings.SplitSeq(p.Path, "/") {
			if slices.Contains(forbiddenNames, name) {
				add("%s: a folder called %q says nothing", p.Path, name)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func layerFindings(g graph, p pkg) []string {
	area := p.Path
	for area != "." && layers[area] == nil {
		area = path.Dir(area)
	}
	if area == "." {
		return []string{fmt.Sprintf("%s is in no area of the map: add it to layers and docs/architecture.md", p.Path)}
	}
	var found []string
	for _, imp := range p.Imports {
		if !g.ours(imp) || withinAny(imp, []string{area}) {
			continue
		}
		if !slices.ContainsFunc(layers[area], func(allowed string) bool {
			exact, ok := strings.CutPrefix(allowed, "=")
			return ok && imp == exact || !ok && within(imp, allowed)
		}) {
			found = append(found, fmt.Sprintf("%s imports %s: %s may import of this module %v", p.Path, imp, area, layers[area]))
		}
	}
	return found
}

// forTests reports whether a package is there for tests alone: it or a folder above it ends in "test".
func forTests(path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		if strings.HasSuffix(name, "test") {
			return true
		}
	}
	return false
}

// parents lists the implementations that contain imp: parts of one implementation see each other.
func parents(imp string) []string {
	var out []string
	for _, i := range implementations {
		if within(imp, i) {
			out = append(out, i)
		}
	}
	return out
}

func TestImports(t *testing.T) {
	for _, f := range importFindings(loadGraph(t)) {
		t.Error(f)
	}
}

func TestShort(t *testing.T) {
	for path, want := range map[string]string{
		module + "/runtime/fake": "runtime/fake", "runtime": "std/runtime", "runtime/debug": "std/runtime/debug",
		"time": "time", "github.com/drover-fleet/drover-tools": "github.com/drover-fleet/drover-tools",
	} {
		if got := short(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// Every rule can fail: one made-up package breaks it, and a lawful one doesn't.
func TestImportRulesCanFail(t *testing.T) {
	for _, c := range []struct {
		p    pkg
		want string // part of the only finding; "": none
	}{
		{pkg{Path: "agent", Imports: []string{"agent/journal", "runtime", "devices", "proto/fleet/v1", "time"}}, ""},
		{pkg{Path: "agent", Imports: []string{"registry"}}, "agent may import of this module"},
		{pkg{Path: "agent", Deps: []string{"scheduler/state"}}, "agent and scheduler meet in the protocol alone"},
		{pkg{Path: "scheduler/session", Deps: []string{"agent/journal"}}, "agent and scheduler meet in the protocol alone"},
		{pkg{Path: "scheduler/state", Imports: []string{"scheduler/place"}}, "scheduler/state may import of this module"},
		{pkg{Path: "client", Imports: []string{"proto/fleet/v1"}}, ""},
		{pkg{Path: "client", Imports: []string{"identity"}}, "client may import of this module"},
		{pkg{Path: "client/direct", Imports: []string{"google.golang.org/grpc"}}, "links no gRPC"},
		{pkg{Path: "runtime/runtimetest", Imports: []string{"testing", "runtime"}}, ""},
		{pkg{Path: "runtime/containerd/daemon", Imports: []string{"runtime/containerd"}}, ""},
		{pkg{Path: "cmd/drover", Imports: []string{"runtime/containerd", "runtime/fake", "agent", "scheduler"}}, ""},
		{pkg{Path: "test/cluster", Imports: []string{"runtime/fake", "testing"}}, ""},
		{pkg{Path: "devices", Imports: []string{"devices/fake"}}, "imports the implementation devices/fake"},
		{pkg{Path: "scheduler/api", Imports: []string{"github.com/hashicorp/raft"}}, "only scheduler/raftstore may"},
		{pkg{Path: "scheduler", TestImports: []string{"github.com/hashicorp/raft"}}, "only scheduler/raftstore may"},
		{pkg{Path: "agent", Imports: []string{"github.com/containerd/containerd/v2/client"}}, "only runtime/containerd, test may"},
		{pkg{Path: "scheduler/raftstore", Imports: []string{"github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb/v2"}}, ""},
		{pkg{Path: "agent/health", Imports: []string{"testing"}}, "the product links no test code"},
		{pkg{Path: "agent/health", TestImports: []string{"testing", "testing/synctest"}}, ""},
		{pkg{Path: "scheduler/place", Imports: []string{"time"}}, "placement is a pure function"},
		{pkg{Path: "scheduler/state", Imports: []string{"time"}}, ""},
		{pkg{Path: "scheduler/state", Imports: []string{"crypto/rand"}}, "applying a command decides nothing"},
		{pkg{Path: "agent/util"}, `a folder called "util" says nothing`},
		{pkg{Path: "gateway"}, "is in no area of the map"},
	} {
		others := []pkg{}
		for _, path := range []string{"agent/journal", "runtime", "runtime/containerd", "runtime/fake", "devices", "devices/fake", "identity",
			"proto/fleet/v1", "registry", "scheduler", "scheduler/place", "scheduler/state"} {
			if path != c.p.Path {
				others = append(others, pkg{Path: path})
			}
		}
		found := importFindings(graph{Packages: append(others, c.p)})
		switch {
		case c.want == "" && len(found) > 0:
			t.Errorf("%+v: unexpected %q", c.p, found)
		case c.want != "" && (len(found) != 1 || !strings.Contains(found[0], c.want)):
			t.Errorf("%+v: found %q, want one that says %q", c.p, found, c.want)
		}
	}
}
