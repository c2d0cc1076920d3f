package client

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// WithConsistency says how the reads made under the context may be answered: fleetv1.ConsistencyLinearizable, which is
// the default, or fleetv1.ConsistencyStale, by the scheduler that is asked, with or without a leader.
func WithConsistency(ctx context.Context, consistency string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, fleetv1.MetadataConsistency, consistency)
}

// WithMaxStale has stale reads made under the context refused when they would be older.
func WithMaxStale(ctx context.Context, age time.Duration) context.Context {
	return metadata.AppendToOutgoingContext(ctx, fleetv1.MetadataMaxStale, strconv.FormatInt(age.Milliseconds(), 10))
}
