package direct_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/drover-fleet/drover/client/direct"
)

// A program follows a service and calls it by its name, as any other server.
func Example() {
	scheduler, caFile, stop := standIn()
	defer stop()

	service, err := direct.Follow(direct.Config{
		Schedulers:  []string{scheduler},
		Service:     "iris",
		CAFile:      caFile,
		Credentials: direct.Credentials{AccessKey: "my-key", SecretKey: "my-secret"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer service.Close()
	client := &http.Client{Transport: direct.NewTransport(service, direct.TransportConfig{})}

	req, err := http.NewRequest(http.MethodPost, "http://iris/predict", strings.NewReader(`{"petal_length": 1.4}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	req.Header.Set("Idempotency-Key", "42") // a prediction may be made twice
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	fmt.Println(resp.Status, string(answer), err)

	// Output: 200 OK setosa <nil>
}

// counter counts the calls of each version: an Observer for whatever a program exports its figures with.
type counter map[string]int

func (c counter) Observe(a direct.Attempt) {
	c[fmt.Sprint(a.Endpoint.Model, " ", a.Endpoint.ModelVersion, " ", a.Status)]++
}

func ExampleObserver() {
	scheduler, caFile, stop := standIn()
	defer stop()
	service, err := direct.Follow(direct.Config{
		Schedulers: []string{scheduler}, Service: "iris", CAFile: caFile,
		Credentials: direct.Credentials{Token: os.Getenv("DROVER_TOKEN")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer service.Close()
	calls := counter{}
	client := &http.Client{Transport: direct.NewTransport(service, direct.TransportConfig{Observer: calls})}
	for range 3 {
		resp, err := client.Get("http://iris/predict")
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
	}
	fmt.Println(calls)

	// Output: map[iris 1.0.0 200:3]
}

// standIn is a scheduler that knows one instance.
func standIn() (url, caFile string, stop func()) {
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "setosa") }))
	addr := instance.Listener.Addr().(*net.TCPAddr)
	scheduler := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, `data: {"host_endpoints":[{"schema":"http","ip":"%s","port":%d,"model":"iris","model_version":"1.0.0","weight":100,`+
			`"instance_id":"i-1"}],"index":1,"max_age_seconds":3}`+"\n\n", addr.IP, addr.Port)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	dir, err := os.MkdirTemp("", "drover-example-")
	if err != nil {
		panic(err)
	}
	caFile = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: scheduler.Certificate().Raw}), 0o600); err != nil {
		panic(err)
	}
	return scheduler.URL, caFile, func() {
		scheduler.CloseClientConnections()
		scheduler.Close()
		instance.Close()
		os.RemoveAll(dir)
	}
}
