package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/backup"
	"github.com/drover-fleet/drover/scheduler/events"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Recovery is what is known when a scheduler shall go on alone.
type Recovery = raftstore.Recovery

// recoveredFile says that this scheduler was made the only voter, and has not led since. Its state may be older than what
// agents have seen, like one restored from a backup: it gets a restore epoch of its own.
const recoveredFile = "recovered"

// Recover makes the scheduler of this configuration, which must not run, the only voter of its cluster: for when a
// majority of the schedulers is lost for good. confirm is told what is known; nothing changes unless it answers nil.
// When the scheduler leads, nothing is placed, stopped or removed before an operator confirms it, as after a restore.
func Recover(cfg Config, logger *slog.Logger, confirm func(Recovery) error) (err error) {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("scheduler configuration: %w", err)
	}
	raftConfig := raftstore.DefaultConfig()
	raftConfig.DataDir, raftConfig.Addr, raftConfig.Logger = cfg.DataDir, cfg.RaftAddr, logger
	raftConfig.Advertise = cfg.raftAdvertise()
	sink := &lateSink{}
	defer func() {
		if sink.store != nil {
			err = errors.Join(err, sink.store.Close())
		}
	}()
	return raftstore.Recover(raftConfig, state.New(), sink, func(known Recovery) error {
		if err := confirm(known); err != nil {
			return err
		}
		// Only now is the data directory this process's own.
		if err := identity.WriteFile(filepath.Join(cfg.DataDir, recoveredFile), fmt.Appendf(nil, "of entry %d\n", known.LastIndex)); err != nil {
			return err
		}
		store, err := events.Open(filepath.Join(cfg.DataDir, "events.db"), events.Options{Logger: logger})
		if err == nil {
			sink.use(store)
		}
		return err
	})
}

// afterRecovery gives the state of a scheduler that was recovered its restore epoch. It ends when it has one, or with ctx.
func (s *Server) afterRecovery(ctx context.Context) error {
	path := filepath.Join(s.cfg.DataDir, recoveredFile)
	for {
		switch _, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil:
			err = s.raiseEpoch(ctx)
			if err == nil {
				err = os.Remove(path)
			}
			if err == nil {
				return nil
			}
			s.log.Warn("the recovery isn't finished, trying again", "error", err)
		default:
			s.log.Warn("the recovery isn't finished, trying again", "error", err)
		}
		timer := time.NewTimer(bootstrapRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// raiseEpoch gives the state its restore epoch, and refuses the schedulers that were given up: with their data they would
// go on as the cluster that they were, over what is written here.
func (s *Server) raiseEpoch(ctx context.Context) error {
	now, cluster := time.Now(), proto.CloneOf(s.state.View().Cluster())
	cluster.RestoreEpoch = backup.NextEpoch(now, cluster.GetRestoreEpoch())
	self := func(id string) bool { return id == s.raft.ID() }
	write := &fleetv1.Write{Mutations: authority.Retire(s.state.View(), cluster, self, "recover", now)}
	write.Mutations = append(write.Mutations, state.Put(cluster.GetMeta().GetRevision(), cluster))
	cmd := &fleetv1.Command{Time: timestamppb.New(now), Caller: "scheduler", Op: &fleetv1.Command_Write{Write: write}}
	cmd.Introduced = state.Introduced(cmd)
	result, err := s.proposals.Propose(ctx, cmd)
	if err == nil && len(result.Rejections) > 0 {
		err = errors.New(result.Rejections[0].Detail)
	}
	if err != nil {
		return fmt.Errorf("give the recovered state its restore epoch: %w", err)
	}
	s.log.Warn("this scheduler goes on alone after a recovery; nothing is placed, stopped or removed before an operator confirms", "restore_epoch", cluster.GetRestoreEpoch())
	return nil
}
