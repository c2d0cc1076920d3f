package session

import (
	"context"
	"errors"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ErrNotConnected says that no scheduler is connected.
var ErrNotConnected = errors.New("no scheduler is connected")

// ExchangeTask calls the scheduler of the present session, over its connection: the leader, which alone leases items.
func (c *Client) ExchangeTask(ctx context.Context, req *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error) {
	conn := c.conn.Load()
	if conn == nil {
		return nil, ErrNotConnected
	}
	return fleetv1.NewTaskServiceClient(conn).ExchangeTask(ctx, req)
}
