package session

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// checkPeer refuses a stream about another node than the one that the caller's certificate names. Without TLS there
// is none, and the agents' token has been checked.
func (h *Hub) checkPeer(ctx context.Context, node string) error {
	who, ok := identity.PeerOf(ctx)
	if !ok || who.Role == fleetv1.RoleAgent && who.Name == node {
		return nil
	}
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	h.cfg.Logger.Warn("a stream is refused", "audit", "refused", "who", who.String(), "from", from, "node", node,
		"error", "its certificate is not that of the node which it speaks for")
	return status.Errorf(codes.PermissionDenied, "the certificate is that of %s: it can't speak for node %q", who, node)
}
