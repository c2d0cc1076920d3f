package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Files that the bootstrap leaves in the data directory.
const (
	AdminTokenFile = "admin.token"
	AgentTokenFile = "agent.token"
)

// bootstrapRetry is the pause before a failed bootstrap is tried again.
const bootstrapRetry = time.Second

// bootstrap makes the cluster's first objects, its CA and this scheduler's certificate if they don't exist. It ends when
// they do, or with ctx.
func (s *Server) bootstrap(ctx context.Context) error {
	for {
		err := s.tryBootstrap(ctx)
		if err == nil {
			err = s.certify(ctx)
		}
		if err == nil {
			return nil
		}
		s.log.Warn("bootstrap failed, trying again", "error", err)
		timer := time.NewTimer(bootstrapRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (s *Server) tryBootstrap(ctx context.Context) error {
	if s.state.View().Cluster() != nil {
		return nil
	}
	now := timestamppb.New(s.clock.Now())
	meta := func(name string) *fleetv1.Meta {
		return &fleetv1.Meta{Name: name, Id: uuid.NewString(), Account: fleetv1.Default, Project: fleetv1.Default,
			Generation: 1, CreateTime: now, CreatedBy: "scheduler"}
	}
	write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Cluster{Meta: meta("cluster")})}}
	for _, t := range []struct{ file, name, role string }{
		{AdminTokenFile, "admin", fleetv1.RoleAdmin}, {AgentTokenFile, "agent", fleetv1.RoleAgent},
	} {
		secret, err := secretFile(filepath.Join(s.cfg.DataDir, t.file))
		if err != nil {
			return err
		}
		write.Mutations = append(write.Mutations,
			state.Put(0, &fleetv1.Token{Meta: meta(t.name), Role: t.role, SecretSha256: auth.Hash(secret)}))
	}
	if err := s.write(ctx, "bootstrap the cluster", write); err != nil {
		return err
	}
	s.log.Info("the cluster is bootstrapped", "admin_token", filepath.Join(s.cfg.DataDir, AdminTokenFile))
	return nil
}

// write commits in the scheduler's own name.
func (s *Server) write(ctx context.Context, what string, write *fleetv1.Write) error {
	cmd := &fleetv1.Command{Time: timestamppb.New(s.clock.Now()), Caller: "scheduler", Op: &fleetv1.Command_Write{Write: write}}
	cmd.Introduced = state.Introduced(cmd)
	result, err := s.proposals.Propose(ctx, cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(result.Rejections) > 0 {
		return fmt.Errorf("%s: %s", what, result.Rejections[0].Detail)
	}
	return nil
}

// secretFile answers the secret in the file, and makes both when there is none.
func secretFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		if secret := strings.TrimSpace(string(b)); secret != "" {
			return secret, nil
		}
		return "", fmt.Errorf("token file %s is empty: remove it", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read token file: %w", err)
	}
	secret := auth.NewSecret()
	if err := identity.WriteFile(path, []byte(secret+"\n")); err != nil {
		return "", fmt.Errorf("write token file: %w", err)
	}
	return secret, nil
}
