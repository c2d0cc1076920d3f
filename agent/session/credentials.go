package session

import (
	"context"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

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
