package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// dial prepares a connection; the first call makes it.
func (c *Client) dial(address string) (*grpc.ClientConn, error) {
	if address == "" {
		return nil, errors.New("no scheduler's address is known: set schedulers in the agent's configuration")
	}
	options, err := c.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, append(options,
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}

// credentials are how the agent shows who it is: its certificate, or without TLS the agents' token.
func (c *Client) credentials() ([]grpc.DialOption, error) {
	if c.cfg.Identity != nil {
		return []grpc.DialOption{grpc.WithTransportCredentials(c.cfg.Identity.ClientCredentials())}, nil
	}
	token, err := os.ReadFile(c.cfg.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the agent's token: %w", err)
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))),
	}, nil
}

// bearer is the agents' token on every call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false: without TLS, schedulers are on loopback addresses.
func (bearer) RequireTransportSecurity() bool { return false }
