package api

import (
	"context"
	"crypto/sha256"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/scheduler/state"
)

// requestDigest is the SHA-256 of the request without its ID: the same ID with another digest is
// another request.
func requestDigest(req request) ([]byte, error) {
	bare := proto.Clone(req)
	if f := bare.ProtoReflect().Descriptor().Fields().ByName("request_id"); f != nil {
		bare.ProtoReflect().Clear(f)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(bare)
	if err != nil {
		return nil, fmt.Errorf("digest request: %w", err)
	}
	h := sha256.New()
	h.Write([]byte(bare.ProtoReflect().Descriptor().FullName()))
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil), nil
}

// requestScope is whose a request ID is, if there is one: another account or project may use the same.
func requestScope(ctx context.Context, id string) string {
	if id == "" {
		return ""
	}
	c := caller(ctx)
	return c.Account + "/" + c.Project
}

// repeated says whether the request was carried out before.
func repeated(ctx context.Context, view state.ReadView, id string, digest []byte) (bool, error) {
	if id == "" {
		return false, nil
	}
	record, same := state.SameRequest(view, requestScope(ctx, id), id, digest)
	if record != nil && !same {
		return false, refuse(codes.FailedPrecondition,
			"request ID %q was used for another request: give every request its own", id)
	}
	return same && record != nil, nil
}
