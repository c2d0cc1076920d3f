package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/drover-fleet/drover/client/direct"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// DefaultAddr is where a scheduler listens unless told otherwise.
const DefaultAddr = "127.0.0.1:7400"

// Config says how to reach a scheduler.
type Config struct {
	// Addr is "host:port" of the scheduler's gRPC; empty means DefaultAddr.
	Addr string
	// Token is the caller's secret; when empty it is read from TokenFile, once, by Dial.
	Token     string
	TokenFile string
	// CAFile holds the certificates that the scheduler's one is checked against. Without it the
	// connection is plain text, which only a loopback Addr allows.
	CAFile string
}

// Client holds one connection and the stub of each noun. It is safe for concurrent use.
type Client struct {
	Nodes       fleetv1.NodeServiceClient
	Devices     fleetv1.DeviceServiceClient
	Flavors     fleetv1.FlavorServiceClient
	Pools       fleetv1.PoolServiceClient
	Quotas      fleetv1.QuotaServiceClient
	Models      fleetv1.ModelServiceClient
	Services    fleetv1.ServiceServiceClient
	Jobs        fleetv1.JobServiceClient
	StorageKeys fleetv1.StorageKeyServiceClient
	Lookup      fleetv1.LookupServiceClient
	Instances   fleetv1.InstanceServiceClient
	Events      fleetv1.EventServiceClient
	Cluster     fleetv1.ClusterServiceClient
	Identity    fleetv1.IdentityServiceClient
	Backups     fleetv1.BackupServiceClient
	Tenants     fleetv1.TenantServiceClient
	Credentials fleetv1.CredentialServiceClient

	addr string
	conn *grpc.ClientConn
}

// Dial prepares a client; the connection itself is made by the first call. The caller closes it.
func Dial(cfg Config) (*Client, error) {
	if cfg.Addr == "" {
		cfg.Addr = DefaultAddr
	}
	token, err := cfg.token()
	if err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+cfg.Addr,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(bearer{token: token, secure: cfg.CAFile != ""}),
		grpc.WithStatsHandler(tracker{}),
		grpc.WithDefaultServiceConfig(retryReads()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", cfg.Addr, err)
	}
	return &Client{
		Nodes:       fleetv1.NewNodeServiceClient(conn),
		Devices:     fleetv1.NewDeviceServiceClient(conn),
		Flavors:     fleetv1.NewFlavorServiceClient(conn),
		Pools:       fleetv1.NewPoolServiceClient(conn),
		Quotas:      fleetv1.NewQuotaServiceClient(conn),
		Models:      fleetv1.NewModelServiceClient(conn),
		Services:    fleetv1.NewServiceServiceClient(conn),
		Jobs:        fleetv1.NewJobServiceClient(conn),
		StorageKeys: fleetv1.NewStorageKeyServiceClient(conn),
		Lookup:      fleetv1.NewLookupServiceClient(conn),
		Instances:   fleetv1.NewInstanceServiceClient(conn),
		Events:      fleetv1.NewEventServiceClient(conn),
		Cluster:     fleetv1.NewClusterServiceClient(conn),
		Identity:    fleetv1.NewIdentityServiceClient(conn),
		Backups:     fleetv1.NewBackupServiceClient(conn),
		Tenants:     fleetv1.NewTenantServiceClient(conn),
		Credentials: fleetv1.NewCredentialServiceClient(conn),
		addr:        cfg.Addr,
		conn:        conn,
	}, nil
}

// Addr is the scheduler's address that the client was made for.
func (c *Client) Addr() string { return c.addr }

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

func (cfg Config) token() (string, error) {
	if cfg.Token != "" || cfg.TokenFile == "" {
		return cfg.Token, nil
	}
	b, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", cfg.TokenFile)
	}
	return token, nil
}

func (cfg Config) transport() (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: want host:port", cfg.Addr)
	}
	if cfg.CAFile == "" {
		if !loopback(host) {
			return nil, fmt.Errorf("address %s is not on this machine: a token is only sent there over TLS, which needs the scheduler's CA file", cfg.Addr)
		}
		return insecure.NewCredentials(), nil
	}
	pool, err := direct.ReadCA(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS13}), nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// bearer puts the token on every call.
type bearer struct {
	token  string
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if b.token == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity is false on loopback only: transport has refused every other plain address.
func (b bearer) RequireTransportSecurity() bool { return b.secure }

// retryReads is the gRPC service configuration that retries every unary Get… and List… method.
func retryReads() string {
	type method struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	var reads []method
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				name := string(m.Name())
				if !m.IsStreamingServer() && (strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List")) {
					reads = append(reads, method{string(s.FullName()), name})
				}
			}
		}
		return true
	})
	config, err := json.Marshal(map[string]any{"methodConfig": []any{map[string]any{
		"name": reads,
		"retryPolicy": map[string]any{
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
			"retryableStatusCodes": []string{"UNAVAILABLE"},
		},
	}}})
	if err != nil {
		panic(errors.Join(errors.New("encode the service configuration"), err)) // strings and numbers always encode
	}
	return string(config)
}
