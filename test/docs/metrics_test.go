package docs

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/cluster"
)

// sometimes are families that a machine reports only when there is something to report.
var sometimes = []string{
	"drover_host_disk_read_bytes_total", "drover_host_disk_written_bytes_total", "drover_host_disk_io_seconds_total",
	"drover_host_network_receive_bytes_total", "drover_host_network_transmit_bytes_total", "drover_host_network_errors_total",
	"drover_device_signals_total", "drover_device_held", "drover_device_overall_utilisation_ratio", "drover_device_health_code", "drover_device_retired_pages",
}

var (
	sectionTitle = regexp.MustCompile(`(?m)^## (\w+)`)
	familyRow    = regexp.MustCompile("(?m)^\\| `(drover_[a-z0-9_]+)` \\|")
	familyHelp   = regexp.MustCompile(`^# HELP (drover_[a-z0-9_]+) `)
)

// sections returns the families of docs/metrics.md by the first word of their section.
func sections(page string) map[string][]string {
	out := map[string][]string{}
	starts := sectionTitle.FindAllStringSubmatchIndex(page, -1)
	for i, s := range starts {
		end := len(page)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		for _, m := range familyRow.FindAllStringSubmatch(page[s[1]:end], -1) {
			title := page[s[2]:s[3]]
			out[title] = append(out[title], m[1])
		}
	}
	return out
}

// scrape returns the families that a daemon reports.
func scrape(t *testing.T, addr string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	found, err := reported(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	return found
}

func reported(body io.Reader) ([]string, error) {
	found := map[string]bool{}
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if m := familyHelp.FindStringSubmatch(lines.Text()); m != nil {
			found[m[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), lines.Err()
}

// differences says which families lack a row, and which rows a family.
func differences(daemon string, reported, page, sometimes []string) []string {
	var out []string
	for _, name := range reported {
		if !slices.Contains(page, name) {
			out = append(out, daemon+": docs/metrics.md has no row for "+name)
		}
	}
	for _, name := range page {
		if !slices.Contains(reported, name) && !slices.Contains(sometimes, name) {
			out = append(out, daemon+": docs/metrics.md says it reports "+name)
		}
	}
	return out
}

// TestMetricsPage compares docs/metrics.md with what running daemons report.
func TestMetricsPage(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Devices: "2xH100-80GB"})
	c.Declare()
	c.Deploy("iris", 1)
	c.WaitState("iris", fleetv1.ServiceRunning)
	page := sections(pages(t)["docs/metrics.md"])
	for daemon, addr := range map[string]string{"Scheduler": c.HTTPAddr(), "Agent": c.Nodes[0].HTTPAddr()} {
		for _, d := range differences(daemon, scrape(t, addr), page[daemon], sometimes) {
			t.Error(d)
		}
	}
}

func TestMetricsPageCanFail(t *testing.T) {
	page := sections("# Metrics\n\n| `drover_none` |\n\n## Agent (port)\n\n| `drover_a` | x |\n| `drover_b` |\n\n## Scheduler\n| `drover_c` |\n")
	if !slices.Equal(page["Agent"], []string{"drover_a", "drover_b"}) || !slices.Equal(page["Scheduler"], []string{"drover_c"}) {
		t.Fatalf("sections %v", page)
	}
	got, err := reported(strings.NewReader("# HELP drover_a Help.\n# TYPE drover_a gauge\ndrover_a 1\n# HELP drover_d Help.\n# HELP go_x Help.\n"))
	if err != nil || !slices.Equal(got, []string{"drover_a", "drover_d"}) {
		t.Fatalf("reported %v, %v", got, err)
	}
	want := []string{"Agent: docs/metrics.md has no row for drover_d", "Agent: docs/metrics.md says it reports drover_b"}
	if found := differences("Agent", got, []string{"drover_a", "drover_b", "drover_e"}, []string{"drover_e"}); !slices.Equal(found, want) {
		t.Errorf("found %q", found)
	}
}
