package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Target is the container that is probed.
type Target struct {
	// IP and Port are where it listens.
	IP   string
	Port int
	// Exec runs a command in it and answers its exit code.
	Exec func(ctx context.Context, command []string) (uint32, error)
}

func (t Target) address() string { return net.JoinHostPort(t.IP, strconv.Itoa(t.Port)) }

// Probe asks once, for at most the check's timeout; nil means healthy. A nil check asks whether the port
// accepts a connection.
func Probe(ctx context.Context, check *fleetv1.HealthCheck, target Target) error {
	ctx, cancel := context.WithTimeout(ctx, seconds(check.GetTimeoutSeconds(), 5))
	defer cancel()
	switch method := check.GetCheckMethod(); method {
	case "HTTP":
		return probeHTTP(ctx, check, target)
	case "GRPC":
		return probeGRPC(ctx, check.GetService(), target)
	case "EXEC":
		code, err := target.Exec(ctx, check.GetCommand())
		if err != nil {
			return fmt.Errorf("run %s: %w", strings.Join(check.GetCommand(), " "), err)
		}
		if code != 0 {
			return fmt.Errorf("%s ended with code %d", strings.Join(check.GetCommand(), " "), code)
		}
		return nil
	case "TCP", "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.address())
		if err != nil {
			return err
		}
		return conn.Close()
	default:
		return fmt.Errorf("unknown check method %q", method)
	}
}

func seconds(v, otherwise int32) time.Duration {
	if v <= 0 {
		v = otherwise
	}
	return time.Duration(v) * time.Second
}

func probeHTTP(ctx context.Context, check *fleetv1.HealthCheck, target Target) error {
	scheme, path := check.GetProtocol(), check.GetUrl()
	if scheme == "" {
		scheme = "http"
	}
	if path == "" {
		path = "/health"
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+target.address()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "drover-health")
	req.Close = true
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see the package's doc
	}
	resp, err := transport.RoundTrip(req) // follows no redirect: 3xx is an answer
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %s", path, resp.Status)
	}
	return nil
}

func probeGRPC(ctx context.Context, service string, target Target) (err error) {
	conn, err := grpc.NewClient("passthrough:///"+target.address(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<10)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	if resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("gRPC health of %q is %s", service, resp.GetStatus())
	}
	return nil
}
