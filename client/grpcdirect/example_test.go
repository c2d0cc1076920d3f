package grpcdirect_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/drover-fleet/drover/client/direct"
	"github.com/drover-fleet/drover/client/grpcdirect"
)

func Example() {
	scheduler, stop := standIn()
	defer stop()

	grpcdirect.Register() // once, in main
	conn, err := grpc.NewClient("drover:///default/iris", append(grpcdirect.Options(direct.Config{
		Schedulers:  []string{scheduler},
		Credentials: direct.Credentials{Token: os.Getenv("DROVER_TOKEN")},
	}), grpc.WithTransportCredentials(insecure.NewCredentials()))...) // as the instances speak
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)

	// Output: SERVING <nil>
}

// standIn is a scheduler that knows one instance.
func standIn() (url string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	instance := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(instance, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- instance.Serve(l) }()
	answer := fmt.Sprintf(`{"host_endpoints":[{"schema":"grpc","ip":"127.0.0.1","port":%d,"weight":100}],"index":1}`, l.Addr().(*net.TCPAddr).Port)
	scheduler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: "+answer+"\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	return scheduler.URL, func() {
		instance.Stop()
		<-done
		scheduler.CloseClientConnections()
		scheduler.Close()
	}
}
