package containerd

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/logfile"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func v2Tree(t *testing.T) string {
	return tree(t, map[string]string{
		"cgroup.controllers":        "cpu io memory pids\n",
		"drover/c-1/cpu.stat":       "usage_usec 1500\nuser_usec 1000\n",
		"drover/c-1/memory.current": "10000\n", "drover/c-1/memory.max": "20000\n",
		"drover/c-1/memory.stat":   "anon 1\ninactive_file 4000\n",
		"drover/c-1/memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
		"drover/c-1/pids.current":  "5\n",
		"drover/c-1/io.stat":       "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=11 wbytes=3\n",
		"drover/bare-1/cpu.stat":   "usage_usec 1\n", "drover/bare-1/memory.current": "1\n", "drover/bare-1/memory.stat": "", "drover/bare-1/memory.max": "max\n",
	})
}

func v1Tree(t *testing.T) string {
	return tree(t, map[string]string{
		"cpuacct/drover/c-1/cpuacct.usage":        "1500000\n",
		"memory/memory.memsw.limit_in_bytes":      "9223372036854771712\n",
		"memory/drover/c-1/memory.usage_in_bytes": "10000\n", "memory/drover/c-1/memory.limit_in_bytes": "20000\n",
		"memory/drover/c-1/memory.stat":                    "cache 1\ntotal_inactive_file 4000\n",
		"memory/drover/c-1/memory.oom_control":             "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"pids/drover/c-1/pids.current":                     "5\n",
		"blkio/drover/c-1/blkio.throttle.io_service_bytes": "8:0 Read 100\n8:0 Write 7\n8:0 Sync 1\n8:16 Read 11\n8:16 Write 3\nTotal 121\n",
	})
}

func TestCgroupStats(t *testing.T) {
	for name, root := range map[string]string{"v1": v1Tree(t), "v2": v2Tree(t)} {
		c := findCgroups(root, "/drover")
		if c.v2 != (name == "v2") || !c.swap {
			t.Errorf("%s: found %+v", name, c)
		}
		s, err := c.stats("c-1")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for what, pair := range map[string][2]uint64{
			"cpu": {*s.CPUNanos, 1_500_000}, "memory": {*s.MemoryBytes, 6000}, "limit": {*s.MemoryLimit, 20000},
			"pids": {*s.Pids, 5}, "read": {*s.DiskReadBytes, 111}, "write": {*s.DiskWriteBytes, 10}, "oom": {c.oomKills("c-1"), 1},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s is %d; want %d", name, what, pair[0], pair[1])
			}
		}
		if _, err := c.stats("none-1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a container that is gone: %v; want not exist", name, err)
		}
		if n := c.oomKills("none-1"); n != 0 {
			t.Errorf("%s: %d kills in a group that is gone", name, n)
		}
	}
	bare, err := findCgroups(v2Tree(t), "/drover").stats("bare-1")
	if err != nil || bare.MemoryLimit != nil || bare.Pids != nil || bare.DiskReadBytes != nil {
		t.Errorf("absent values: %+v, %v; want nil", bare, err)
	}
}

func TestRulesAreFoundAgain(t *testing.T) {
	f := &firewall{bridge: "drover0", subnet: "10.83.0.0/16"}
	recs := []record{{ID: "a", IP: "10.83.0.2", Port: 8080, HostPort: 30000}, {ID: "b", IP: "10.83.0.3", Port: 80}, {ID: "c", IP: "10.83.0.4", HostPort: 30001, deleting: true}}
	chains := f.chains(recs)
	if len(chains[0].rules) != 1 || !strings.Contains(chains[0].rules[0], "--dport 30000 -j DNAT --to-destination 10.83.0.2:8080") {
		t.Errorf("port maps %q", chains[0].rules)
	}
	for _, c := range chains {
		if len(c.name) > 28 {
			t.Errorf("chain name %s is too long", c.name)
		}
	}
	var in bytes.Buffer
	writeChains(&in, "nat", chains[:2], map[string]bool{tagOf("OUTPUT", chains[0].jumps[1].rule(chains[0].name)): true})
	have, err := parseSaved([]byte("# comment\n" + in.String() + "-A POSTROUTING -j OTHER\n"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, rule := range chains[1].rules {
		want = append(want, tagOf(chains[1].name, rule))
	}
	if got := have["nat "+chains[1].name]; !slices.Equal(got, want) || difference(want, got) != 0 {
		t.Errorf("read back %q; want %q", got, want)
	}
	if !strings.Contains(in.String(), "-I OUTPUT 1 -m addrtype --dst-type LOCAL -m comment --comment drover:") {
		t.Errorf("a lost jump is not written:\n%s", in.String())
	}
	for _, c := range []struct {
		have []string
		n    int
	}{{want, 0}, {nil, 2}, {want[:1], 1}, {[]string{want[1], want[0]}, 1}, {append([]string{"foreign"}, want...), 1}} {
		if n := difference(want, c.have); n != c.n {
			t.Errorf("difference to %q is %d; want %d", c.have, n, c.n)
		}
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add([]byte("*nat\n-A X -m comment --comment \"drover:0123456789abcdef\" -j Y\nCOMMIT\n"))
	f.Add([]byte("-A DROVER-X\n*"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		have, err := parseSaved(raw)
		if err != nil {
			return
		}
		for key, tags := range have {
			for _, tag := range tags {
				if tag != "foreign" && !bytes.Contains(raw, []byte(tag)) {
					t.Fatalf("%s: %q is not in the input", key, tag)
				}
			}
		}
	})
}

func TestParseNetDev(t *testing.T) {
	const text = "Inter-|   Receive  |  Transmit\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10\n  eth0:1234 2 0 0 0 0 0 0 5678 10 0 0 0 0 0 0\n"
	in, out := parseNetDev(text, "eth0")
	if in == nil || out == nil || *in != 1234 || *out != 5678 {
		t.Errorf("got %v, %v", in, out)
	}
	for _, bad := range []string{"", "eth0: 1 2", "eth0: x 2 3 4 5 6 7 8 9", "eth0: 1 2 3 4 5 6 7 8 x"} {
		if in, out := parseNetDev(bad, "eth0"); in != nil || out != nil {
			t.Errorf("%q gave %v, %v; want nil", bad, in, out)
		}
	}
}

func TestResolvConf(t *testing.T) {
	text, servers := reachable("search example\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:2\n")
	if servers != 1 || text != "search example\nnameserver 10.0.0.1\noptions ndots:2\n" {
		t.Errorf("%d servers in %q", servers, text)
	}
}

func TestRecordsSurvive(t *testing.T) {
	dir := t.TempDir()
	rs, err := loadRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rs.update("a-1", func(r *record) { r.IP, r.HostPort = "10.0.0.2", 30000 }); err != nil {
		t.Fatal(err)
	}
	if _, err := rs.update("b-1", func(*record) {}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b-1", "record.json"), []byte(`{"IP":"10`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "part-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	again, err := loadRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := again.get("a-1"); !ok || r.IP != "10.0.0.2" || r.HostPort != 30000 || r.ID != "a-1" {
		t.Errorf("read %+v", r)
	}
	if r, ok := again.get("b-1"); !ok || !r.Task {
		t.Errorf("a cut record reads %+v; want it broken", r)
	}
	if _, ok := again.get("part-1"); ok {
		t.Error("a directory without a record has one")
	}
	if err := again.remove("a-1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.get("a-1"); ok || len(again.list()) != 1 {
		t.Error("a removed record is there")
	}
}

func TestLoggerSplitsAndDrops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "1")
	l := newLogger(dir)
	l.register()
	if pid, dead := loggerProcess(dir); pid != os.Getpid() || dead {
		t.Errorf("registered as %d, dead %v", pid, dead)
	}
	long := strings.Repeat("y", logfile.MaxText+5)
	l.run(strings.NewReader("one\n\ntwo\n"+long+"\nlast"), strings.NewReader("err\n"))
	l.unregister()
	var texts []string
	if err := logfile.Read(t.Context(), filepath.Dir(dir), logfile.Query{}, func(lines []logfile.Line) error {
		for _, line := range lines {
			if line.Stream == logfile.Stdout {
				texts = append(texts, line.Text)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "", "two", long[:logfile.MaxText], "yyyyy", "last"}; !slices.Equal(texts, want) {
		t.Errorf("wrote %d lines; want %d: %.200q", len(texts), len(want), texts)
	}
	if n := droppedLines(dir); n == nil || *n != 0 {
		t.Errorf("dropped %v; want 0", n)
	}
	if _, dead := loggerProcess(dir); dead {
		t.Error("a logger that signed off counts as killed")
	}
	// A buffer that nobody empties drops and counts.
	full := newLogger(dir)
	full.read(strings.NewReader(strings.Repeat(long+"\n", 100)), logfile.Stdout)
	if full.lost == 0 || len(full.pending) > loggerBuffer {
		t.Errorf("%d lines lost, %d bytes wait; want some lost, at most %d", full.lost, len(full.pending), loggerBuffer)
	}
}

func TestKilledLoggerIsTold(t *testing.T) {
	for link, dead := range map[string]bool{"1:5": false, "x": false, "999999:": true, "999999:12": true} {
		dir := t.TempDir()
		if err := os.Symlink(link, filepath.Join(dir, loggerLink)); err != nil {
			t.Fatal(err)
		}
		if _, got := loggerProcess(dir); got != dead {
			t.Errorf("%q: dead %v; want %v", link, got, dead)
		}
	}
}

func TestHubTellsSlowWatchersToList(t *testing.T) {
	h := &hub{}
	w := &watcher{wake: make(chan struct{}, 1)}
	h.watchers = map[*watcher]struct{}{w: {}}
	h.loggerDied("x")
	for range maxPending + 10 {
		h.send(runtime.Event{Kind: runtime.EventExited, ID: "a"})
	}
	if len(w.pending) > maxPending || w.pending[0].Kind != runtime.EventLoggerDied || w.pending[1].Kind != runtime.EventResync {
		t.Errorf("%d events wait, first %+v", len(w.pending), w.pending[:2])
	}
}
