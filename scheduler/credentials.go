package scheduler

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/oidc"
)

// When credentials were last used is stored every usesInterval, of at most usesAtOnce of them.
const (
	usesInterval = 10 * time.Minute
	usesAtOnce   = 512
	usesTimeout  = 10 * time.Second
)

// issuer is the external one whose tokens count, nil for none.
func (c Config) issuer(log *slog.Logger) (auth.External, error) {
	if c.OIDC.Issuer == "" {
		return nil, nil
	}
	return oidc.New(c.OIDC, time.Now, log)
}

// sealer encrypts with the key file.
func (s *Server) sealer() auth.Sealer { return sealer{s.cfg.keyFile(), s.cfg.Insecure} }

type sealer struct {
	file identity.KeyFile
	make bool // when there is none: nothing else has made it where there is no CA
}

// Seal implements auth.Sealer.
func (k sealer) Seal(secret []byte, about string) (*fleetv1.SealedKey, error) {
	if k.make {
		if err := k.file.Make(); err != nil {
			return nil, err
		}
	}
	keys, err := k.file.Read()
	if err != nil {
		return nil, err
	}
	return keys.Seal(secret, about)
}

// Open implements auth.Sealer.
func (k sealer) Open(sealed *fleetv1.SealedKey, about string) ([]byte, error) {
	keys, err := k.file.Read()
	if err != nil {
		return nil, err
	}
	return keys.Open(sealed, about)
}

// keepUses has it stored when the credentials that this scheduler is shown were last used: it writes that when it leads,
// and else tells the leader. What fails is tried again the next time.
func (s *Server) keepUses(ctx context.Context) {
	ticker := time.NewTicker(usesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.passUses(ctx); err != nil {
			s.log.Debug("when credentials were last used is stored later", "error", err)
		}
	}
}

func (s *Server) passUses(ctx context.Context) error {
	uses := s.auth.Uses(usesAtOnce)
	if len(uses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, usesTimeout)
	defer cancel()
	leader := s.leaderElsewhere()
	if leader == "" {
		return s.storeUses(ctx, uses)
	}
	conn, err := s.members.Peers().Conn(leader)
	if err != nil {
		return err
	}
	_, err = fleetv1.NewPeerServiceClient(conn).NoteUses(ctx, &fleetv1.NoteUsesRequest{Uses: uses})
	return err
}

func (s *Server) storeUses(ctx context.Context, uses []*fleetv1.CredentialUse) error {
	if !s.leading.Load() {
		return status.Error(codes.Unavailable, "this scheduler does not lead")
	}
	changes := auth.StoreUses(s.state.View(), uses)
	if len(changes) == 0 {
		return nil
	}
	return s.write(ctx, "store when credentials were last used", &fleetv1.Write{Mutations: changes})
}

// NoteUses stores uses that another scheduler has seen.
func (p peerService) NoteUses(ctx context.Context, req *fleetv1.NoteUsesRequest) (*fleetv1.NoteUsesResponse, error) {
	if len(req.GetUses()) > usesAtOnce {
		return nil, status.Errorf(codes.InvalidArgument, "uses: there are %d, at most %d are allowed", len(req.GetUses()), usesAtOnce)
	}
	return &fleetv1.NoteUsesResponse{}, p.s.storeUses(ctx, req.GetUses())
}
