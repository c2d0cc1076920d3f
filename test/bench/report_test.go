//go:build bench

package bench

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// results are written here, seen from this package's directory.
const results = "../../bench/results"

// report is what a run measured.
type report struct {
	name, title string // of its files and page

	Machine []fact   `json:"machine"`
	Figures []figure `json:"figures"`
}

type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// figure is one line of the table. Measured and Bare are medians where N is above 1.
type figure struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Measured spread  `json:"measured"`
	Bare     *spread `json:"bare,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"` // Measured / Bare
	Goal     *goal   `json:"goal,omitempty"`
	N        int     `json:"n"`
}

// spread are the median and the 90th of 100 of a figure.
type spread struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
}

// goal bounds a ratio where there is one, else the measured median.
type goal struct {
	AtMost  float64 `json:"at_most,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"`
	None    bool    `json:"zero,omitempty"`
	Met     bool    `json:"met"`
}

func (g *goal) String() string {
	verdict := map[bool]string{true: "met", false: "MISSED"}[g.Met]
	switch {
	case g.None:
		return "0: " + verdict
	case g.AtLeast > 0:
		return fmt.Sprintf("≥ %g: %s", g.AtLeast, verdict)
	}
	return fmt.Sprintf("≤ %g: %s", g.AtMost, verdict)
}

func (g *goal) judge(v float64) {
	switch {
	case g.None:
		g.Met = v == 0
	case g.AtLeast > 0:
		g.Met = v >= g.AtLeast
	default:
		g.Met = v <= g.AtMost
	}
}

func (r *report) add(f figure) {
	if f.Bare != nil && f.Bare.P50 != 0 {
		f.Ratio = f.Measured.P50 / f.Bare.P50
	}
	if f.Goal != nil {
		f.Goal.judge(cmp.Or(f.Ratio, f.Measured.P50))
	}
	r.Figures = append(r.Figures, f)
}

// spreadOf values that need not be sorted.
func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{P50: quantile(sorted, 0.5), P90: quantile(sorted, 0.9)}
}

// quantile of sorted values: the least one that so large a part doesn't exceed.
func quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

func one(v float64) spread { return spread{P50: v, P90: v} }

func milliseconds(durations []time.Duration) []float64 {
	var out []float64
	for _, d := range durations {
		out = append(out, float64(d)/float64(time.Millisecond))
	}
	return out
}

// describe says what the figures were taken on and with.
func (r *report) describe(runtimeVersion string) {
	r.describeMachine()
	add := func(name, value string) { r.Machine = append(r.Machine, fact{name, value}) }
	add("containerd", runtimeVersion)
	add("runc", strings.TrimPrefix(firstLine("runc", "--version"), "runc version "))
	add("CNI plugins", cniVersion())
	add("iptables", strings.TrimPrefix(firstLine("iptables", "--version"), "iptables "))
}

// describeMachine says what the figures were taken on.
func (r *report) describeMachine() {
	add := func(name, value string) { r.Machine = append(r.Machine, fact{name, value}) }
	add("date", time.Now().UTC().Format(time.DateOnly))
	add("commit", firstLine("git", "describe", "--always", "--dirty"))
	add("processor", processor())
	add("cores", fmt.Sprint(goruntime.NumCPU()))
	add("memory", memoryTotal())
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		add("kernel", unix.ByteSliceToString(u.Release[:]))
	}
	add("go", goruntime.Version())
}

// firstLine of a program's output; what it says when it fails is no fact about the machine.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// cniVersion is the bridge plugin's word when it is called without a command; Debian's was built without
// one, so its package is asked.
func cniVersion() string {
	for _, dir := range cniDirs() {
		out, err := exec.Command(filepath.Join(dir, "bridge")).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		switch {
		case err != nil || !strings.Contains(line, "plugin"):
			continue
		case strings.HasSuffix(line, "version unknown"):
			return firstLine("dpkg-query", "--show", "--showformat=${Version}", "containernetworking-plugins")
		}
		return strings.TrimSpace(line)
	}
	return "unknown"
}

func processor() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(raw)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return goruntime.GOARCH
}

func memoryTotal() string {
	total, err := kilobytes("/proc/meminfo", "MemTotal:")
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.1f GiB", float64(total)/(1<<30))
}

// markdown is the page of the results: the machine, the table.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# " + r.title + "\n\nMade by `make bench`; what is measured and how stands in test/bench/doc.go. Times and rates are medians (p50) with\n" +
		"the 90th of 100 beside them; a ratio is measured / bare, taken in the same run, turn by turn.\n\n| machine | |\n| --- | --- |\n")
	for _, f := range r.Machine {
		fmt.Fprintf(&b, "| %s | %s |\n", f.Name, f.Value)
	}
	b.WriteString("\n| figure | unit | measured | p90 | bare | p90 | ratio | goal | n |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n")
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(f.cells(), " | "))
	}
	return b.String()
}

// text is the table for a terminal.
func (r *report) text() string {
	var b strings.Builder
	for _, f := range r.Machine {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tUNIT\tMEASURED\tP90\tBARE\tP90\tRATIO\tGOAL\tN")
	for _, f := range r.Figures {
		fmt.Fprintln(w, strings.Join(f.cells(), "\t"))
	}
	_ = w.Flush() // into memory
	return b.String()
}

func (f figure) cells() []string {
	row := []string{f.Name, f.Unit, number(f.Measured.P50), number(f.Measured.P90), "", "", "", "", fmt.Sprint(f.N)}
	if f.N == 1 {
		row[3] = ""
	}
	if f.Bare != nil {
		row[4], row[5] = number(f.Bare.P50), number(f.Bare.P90)
		if f.Ratio != 0 {
			row[6] = fmt.Sprintf("%.2f", f.Ratio)
		}
	}
	if f.Goal != nil {
		row[7] = f.Goal.String()
	}
	return row
}

func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%d", int64(v))
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// csv is the table for other programs; what a figure doesn't have is left empty.
func (r *report) csv() (string, error) {
	var b strings.Builder
	w := csv.NewWriter(&b)
	rows := [][]string{{"figure", "unit", "measured", "p90", "bare", "bare_p90", "ratio", "goal", "n"}}
	for _, f := range r.Figures {
		rows = append(rows, f.cells())
	}
	err := w.WriteAll(rows)
	return b.String(), err
}

// write puts all forms into the directory of results.
func (r *report) write() error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(results, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(results, r.name+".json"), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	table, err := r.csv()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(results, r.name+".csv"), []byte(table), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(results, r.name+".md"), []byte(r.markdown()), 0o644)
}

func readReport(name string) (*report, error) {
	raw, err := os.ReadFile(filepath.Join(results, name+".json"))
	if err != nil {
		return nil, err
	}
	r := &report{}
	return r, json.Unmarshal(raw, r)
}
