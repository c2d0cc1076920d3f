package docs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/cluster"
)

// sometimes are families that a machine reports only when there is something to report.
var sometimes = []string{
	"drover_host_disk_read_bytes_total", "drover_host_disk_written_bytes_total", "drover_host_disk_io_seconds_total",
	"drover_host_network_receive_bytes_total", "drover_host_network_transmit_bytes_total", "drover_host_network_errors_total",
	"drover_device_signals_total", "drover_device_overall_utilisation_ratio", "drover_device_health_code", "drover_device_retired_pages",
	"drover_job_bytes_total", "drover_job_items", "drover_job_items_per_second", "drover_job_leases_lost_total", "drover_job_request_duration_seconds", "drover_job_tasks",
	"drover_task_items_total", "drover_task_retries_total", "drover_task_input_bytes_total", "drover_task_output_bytes_total",
	"drover_task_requests_in_flight", "drover_task_requests_limit", "drover_task_request_duration_seconds",
}

// ofDevice are the labels that the page calls "device".
const ofDevice = "index, instance, model, node, service, uuid, vendor, version"

var (
	sectionTitle = regexp.MustCompile(`(?m)^## (\w+)`)
	familyRow    = regexp.MustCompile("(?m)^\\| `(drover_[a-z0-9_]+)` \\| ([a-z, _]*) ?\\| [^|]+ \\|$")
	deviceLabels = regexp.MustCompile(`(?m)^\*device\* stands for (.+?):`)
	familyType   = regexp.MustCompile(`^# TYPE (drover_[a-z0-9_]+) (\w+)`)
	mappedRow    = regexp.MustCompile("(?m)^\\| `(drover_device_[a-z_]+)` \\| [^|]+ \\| [^|]+ \\|")
	labelName    = regexp.MustCompile(`([a-z0-9_]+)="`)
)

// labels are those of families by name: sorted, with commas.
type labels map[string]string

// sections returns the families of docs/metrics.md by the first word of their section.
func sections(page string) map[string]labels {
	out := map[string]labels{}
	starts := sectionTitle.FindAllStringSubmatchIndex(page, -1)
	for i, s := range starts {
		end := len(page)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		title := page[s[2]:s[3]]
		for _, m := range familyRow.FindAllStringSubmatch(page[s[1]:end], -1) {
			if out[title] == nil {
				out[title] = labels{}
			}
			names := strings.Split(strings.Replace(strings.TrimSpace(m[2]), "device", ofDevice, 1), ", ")
			slices.Sort(names)
			out[title][m[1]] = strings.Join(names, ", ")
		}
	}
	return out
}

// scrape returns what the daemon at http(s)://host:port reports.
func scrape(t *testing.T, hc *http.Client, base string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	return string(body)
}

// reported returns our families of a scrape, with the labels of their first series.
func reported(body string) labels {
	found := labels{}
	family, histogram := "", false
	for line := range strings.Lines(body) {
		if m := familyType.FindStringSubmatch(line); m != nil {
			family, histogram = m[1], m[2] == "histogram"
			continue
		}
		if _, seen := found[family]; seen || !strings.HasPrefix(line, "drover_") {
			continue
		}
		var names []string
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			if !histogram || m[1] != "le" {
				names = append(names, m[1])
			}
		}
		slices.Sort(names)
		found[family] = strings.Join(names, ", ")
	}
	return found
}

// differences says which families lack a row or have other labels, and which rows lack a family.
func differences(daemon string, reported, page labels, sometimes []string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(reported)) {
		if want, ok := page[name]; !ok {
			out = append(out, daemon+": docs/metrics.md has no row for "+name)
		} else if want != reported[name] {
			out = append(out, fmt.Sprintf("%s: docs/metrics.md gives %s the labels %q, it has %q", daemon, name, want, reported[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(page)) {
		if _, ok := reported[name]; !ok && !slices.Contains(sometimes, name) {
			out = append(out, daemon+": docs/metrics.md says it reports "+name)
		}
	}
	return out
}

// deviceCluster has a node with four devices: a service holds two, and a third has failed.
func deviceCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := cluster.Start(t, cluster.Options{
		TLS: true, Devices: "2xH100-80GB,2xAscend910B-64GB",
		Agent: func(_ int, cfg *agent.Config) { cfg.DeclaredDevices = map[string]int{"fake": 4} },
	})
	c.Declare()
	_, err := c.Client.Flavors.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: "npu.2"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20, Accelerator: &fleetv1.Accelerator{Vendor: "fake", Model: "Ascend*", Count: 2}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client.Services.DeployService(t.Context(), &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: "iris", Project: "default"},
		Spec: &fleetv1.ServiceSpec{Pool: cluster.Pool, Versions: []*fleetv1.ServiceVersion{{Model: cluster.Model, Flavor: "npu.2", Instances: 1}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitState("iris", fleetv1.ServiceRunning)
	if err := c.Nodes[0].Devices.Inject(0, "xid 79"); err != nil {
		t.Fatal(err)
	}
	c.WaitNode(c.Nodes[0].Name, "to report the XID", func(n *fleetv1.Node) bool {
		return slices.ContainsFunc(n.GetFacts().GetDevices(), func(d *fleetv1.Device) bool { return d.GetHealth() != fleetv1.Healthy })
	})
	return c
}

// TestMetrics compares docs/metrics.md with what running daemons report, and runs the checks of `promtool check
// metrics` over it.
func TestMetrics(t *testing.T) {
	c := deviceCluster(t)
	content := pages(t)["docs/metrics.md"]
	if m := deviceLabels.FindStringSubmatch(content); m == nil || m[1] != ofDevice {
		t.Errorf("docs/metrics.md says that device stands for %q", m)
	}
	page := sections(content)
	_, mapping, _ := strings.Cut(content, "## Names in other exporters")
	var mapped []string
	for _, m := range mappedRow.FindAllStringSubmatch(mapping, -1) {
		mapped = append(mapped, m[1])
	}
	families := slices.DeleteFunc(slices.Sorted(maps.Keys(page["Agent"])), func(name string) bool { return !strings.HasPrefix(name, "drover_device_") })
	if !slices.Equal(mapped, families) {
		t.Errorf("docs/metrics.md maps %q, of the families %q", mapped, families)
	}
	hc, err := client.NewHTTPClient(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	defer hc.CloseIdleConnections()
	agentPage := scrape(t, http.DefaultClient, "http://"+c.Nodes[0].HTTPAddr())
	for daemon, body := range map[string]string{"Scheduler": scrape(t, hc, "https://"+c.HTTPAddr()), "Agent": agentPage} {
		for _, d := range differences(daemon, reported(body), page[daemon], sometimes) {
			t.Error(d)
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Errorf("%s: %v", daemon, err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", daemon, p.Metric, p.Text)
		}
	}
	for series, want := range map[string]int{
		`drover_device_memory_used_bytes{`: 4, `drover_device_xids_total{`: 1, `drover_device_declared{node="node-1",vendor="fake"} 4`: 1,
	} {
		if got := strings.Count(agentPage, "\n"+series); got != want {
			t.Errorf("%d series %s, want %d", got, series, want)
		}
	}
	held := regexp.MustCompile(`(?m)^drover_device_power_watts\{index="\d",instance="[0-9a-f-]{36}",model="Ascend910B-64GB",node="node-1",service="iris",uuid="[^"]+",vendor="fake",version="0.0.1"\}`)
	if got := len(held.FindAllString(agentPage, -1)); got != 2 {
		t.Errorf("the service is named at %d devices, want 2:\n%s", got, agentPage)
	}
}

func TestMetricsPageCanFail(t *testing.T) {
	page := sections("# Metrics\n\n| `drover_none` | | x |\n\n## Agent (port)\n\n| `drover_a` | x | A |\n| `drover_b` | | B |\n\n## Scheduler\n| `drover_c` | x, device | C |\n")
	if !maps.Equal(page["Agent"], labels{"drover_a": "x", "drover_b": ""}) || !maps.Equal(page["Scheduler"], labels{"drover_c": ofDevice + ", x"}) {
		t.Fatalf("sections %v", page)
	}
	got := reported("# HELP drover_a Help.\n# TYPE drover_a gauge\ndrover_a{z=\"1\",y=\"2\"} 1\n# HELP drover_d Help.\n# TYPE drover_d histogram\n" +
		"drover_d_bucket{le=\"1\"} 1\ndrover_d_sum 1\n# HELP go_x Help.\n# TYPE go_x gauge\ngo_x{a=\"b\"} 1\n")
	if !maps.Equal(got, labels{"drover_a": "y, z", "drover_d": ""}) {
		t.Fatalf("reported %v", got)
	}
	want := []string{
		`Agent: docs/metrics.md gives drover_a the labels "x", it has "y, z"`,
		"Agent: docs/metrics.md has no row for drover_d", "Agent: docs/metrics.md says it reports drover_b",
	}
	if found := differences("Agent", got, labels{"drover_a": "x", "drover_b": "", "drover_e": ""}, []string{"drover_e"}); !slices.Equal(found, want) {
		t.Errorf("found %q", found)
	}
}
