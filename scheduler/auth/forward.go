package auth

import (
	"cmp"
	"context"
	"fmt"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// forwardedKey is the metadata that a scheduler passes a caller on in: a fleetv1.ForwardedCaller, which gRPC carries as
// base64 because of the "-bin".
const forwardedKey = "drover-forwarded-caller-bin"

// Forward is the context of a call to another scheduler on behalf of its own caller, which must have been
// authenticated here. The connection must show this scheduler's certificate. Only operators' calls can be passed on.
func Forward(ctx context.Context) (context.Context, error) {
	c, ok := FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("pass a call on: nobody has been authenticated")
	}
	b, err := proto.Marshal(&fleetv1.ForwardedCaller{Name: c.Name, Role: c.Role, Project: c.Project, Account: c.Account, User: c.User,
		Scopes: c.Scopes, Address: Address(ctx)})
	if err != nil {
		return nil, fmt.Errorf("pass a call on: %w", err)
	}
	return metadata.AppendToOutgoingContext(ctx, forwardedKey, string(b)), nil
}

// forwardedCaller is whom the call claims to be passed on for, or nil. Nothing about it has been checked.
func forwardedCaller(ctx context.Context) (*Caller, error) {
	values := metadata.ValueFromIncomingContext(ctx, forwardedKey)
	if len(values) == 0 {
		return nil, nil
	}
	m := &fleetv1.ForwardedCaller{}
	if err := proto.Unmarshal([]byte(values[0]), m); err != nil || len(values) > 1 || m.GetName() == "" {
		return nil, fmt.Errorf("%s: it is not one caller", forwardedKey)
	}
	return &Caller{Name: m.GetName(), User: cmp.Or(m.GetUser(), m.GetName()), Role: m.GetRole(), Project: m.GetProject(), Account: m.GetAccount(),
		Scopes: m.GetScopes(), From: m.GetAddress()}, nil
}
