package grpcdirect

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/drover-fleet/drover/client/direct"
)

func Example() {
	Register() // once, in main
	conn, err := grpc.NewClient("drover:///default/iris", append(Options(direct.Config{
		Schedulers:  []string{"https://127.0.0.1:7401"},
		CAFile:      os.Getenv("DROVER_CA"),
		Credentials: direct.Credentials{Token: os.Getenv("DROVER_TOKEN")},
	}), grpc.WithTransportCredentials(insecure.NewCredentials()))...) // how the instances speak
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	fmt.Println(err)
}
