package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// endpoint is one answer of the look-up.
type endpoint struct {
	Schema     string `json:"schema"`
	IP         string `json:"ip"`
	Port       int    `json:"port"`
	InstanceID string `json:"instance_id"`
}

// flowers that the demo asks about, one of each species.
var flowers = []struct{ measures, species string }{
	{`{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}`, "setosa"},
	{`{"sepal_length":5.7,"sepal_width":2.8,"petal_length":4.1,"petal_width":1.3}`, "versicolor"},
	{`{"sepal_length":6.3,"sepal_width":3.3,"petal_length":6.0,"petal_width":2.5}`, "virginica"},
}

// predict looks the endpoints up as a client in the same network would, and calls each of them.
func (d *demo) predict(ctx context.Context) error {
	token, err := os.ReadFile(d.context.TokenFile)
	if err != nil {
		return err
	}
	url := d.context.HTTPAddr + "/v1/default/services/iris/predict/endpoints?type=host_endpoints"
	d.printf("\n$ curl -H \"X-Auth-Token: $(cat %s)\" '%s'\n", d.context.TokenFile, url)
	body, err := call(ctx, http.MethodGet, url, strings.TrimSpace(string(token)), "")
	if err != nil {
		return err
	}
	os.Stdout.Write(body)
	var found struct {
		Endpoints []endpoint `json:"host_endpoints"`
	}
	if err := json.Unmarshal(body, &found); err != nil {
		return fmt.Errorf("read the endpoints: %w", err)
	}
	if len(found.Endpoints) == 0 {
		return fmt.Errorf("the look-up answered no endpoint")
	}
	for i, e := range found.Endpoints {
		flower := flowers[i%len(flowers)]
		url := e.Schema + "://" + net.JoinHostPort(e.IP, strconv.Itoa(e.Port)) + "/"
		request := `{"data":{"req_data":[` + flower.measures + `]}}`
		d.printf("\n$ curl -X POST -H 'Content-Type: application/json' -d '%s' %s\n", request, url)
		body, err := call(ctx, http.MethodPost, url, "", request)
		if err != nil {
			return fmt.Errorf("%w; the log: %s", err, d.keepLog())
		}
		os.Stdout.Write(body)
		if !bytes.Contains(body, []byte(`"predictresult":"`+flower.species+`"`)) {
			return fmt.Errorf("instance %s should have said %s", e.InstanceID, flower.species)
		}
	}
	return nil
}

// shownMetrics are the families whose first samples are shown.
var shownMetrics = []string{
	"drover_build_info", "drover_host_cpu", "drover_host_memory", "drover_instance_cpu", "drover_instance_memory",
	"drover_instance_restarts", "drover_instance_health", "drover_device_utilisation", "drover_device_memory",
}

const samplesShown = 2

// metrics shows key lines of the agent's metrics page.
func (d *demo) metrics(ctx context.Context) error {
	out, err := d.answer(ctx, "node", "show", "dev-1", "-o", "json")
	if err != nil {
		return err
	}
	var node struct {
		Facts struct {
			HTTPAddress string `json:"http_address"`
		} `json:"facts"`
	}
	if err := json.Unmarshal(out, &node); err != nil {
		return fmt.Errorf("read the node: %w", err)
	}
	url := "http://" + node.Facts.HTTPAddress + "/metrics"
	d.printf("\n$ curl %s    (key lines)\n", url)
	page, err := call(ctx, http.MethodGet, url, "", "")
	if err != nil {
		return err
	}
	shown := make(map[string]int)
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		for _, family := range shownMetrics {
			if strings.HasPrefix(lines.Text(), family) && shown[family] < samplesShown {
				shown[family]++
				d.printf("%s\n", lines.Text())
			}
		}
	}
	if len(shown) == 0 {
		return fmt.Errorf("%s has none of the metrics that were expected", url)
	}
	return nil
}

const callLimit = 10 * time.Second

// call makes one request and answers its body; any answer but 200 is an error.
func call(ctx context.Context, method, url, token, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, bytes.TrimSpace(data))
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	return data, nil
}
