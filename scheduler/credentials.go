package scheduler

import (
	"context"
	"time"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/oidc"
)

// When credentials were last used is written every usesInterval, of at most usesAtOnce of them.
const (
	usesInterval = 10 * time.Minute
	usesAtOnce   = 512
)

// issuer is the external one whose tokens count, nil for none.
func (c Config) issuer() (auth.External, error) {
	if c.OIDC.Issuer == "" {
		return nil, nil
	}
	return oidc.New(c.OIDC, time.Now)
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

// storeUses writes, while this scheduler leads, when the credentials that it was shown were last used.
func (s *Server) storeUses(ctx context.Context) {
	ticker := time.NewTicker(usesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		uses := s.auth.Uses(usesAtOnce)
		if len(uses) == 0 || !s.leading.Load() {
			continue
		}
		if err := s.write(ctx, "store when credentials were last used", &fleetv1.Write{Mutations: uses}); err != nil {
			s.log.Debug("when credentials were last used is stored later", "error", err)
		}
	}
}
