package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/api"
	"github.com/drover-fleet/drover/scheduler/backup"
	"github.com/drover-fleet/drover/scheduler/state"
)

// restoreTime is how long the schedulers may take to agree on a restored state.
const restoreTime = 10 * time.Minute

// backups implements api.Backups.
type backups struct{ s *Server }

// Backup writes a backup file of all that was committed before the call. Only the leader can.
func (b backups) Backup(ctx context.Context, w io.Writer) error {
	s := b.s
	if err := s.raft.ReadIndex(ctx); err != nil {
		return err
	}
	snapshot := s.state.Snapshot()
	cluster := snapshot.View().Cluster()
	return backup.Write(w, &fleetv1.BackupHeader{
		ClusterId: cluster.GetMeta().GetId(), RestoreEpoch: cluster.GetRestoreEpoch(), Index: snapshot.Index(), Term: s.raft.Status().Term,
		Time: timestamppb.Now(), Version: s.version(), CommandVersion: state.CommandVersion, EncryptionKeyIds: sealedUnder(snapshot.View()),
	}, snapshot)
}

// sealedUnder are the keys that the secrets in the state are encrypted under.
func sealedUnder(view state.ReadView) []string {
	ids := backup.KeyIDs(view.Cluster())
	for _, k := range view.Keys() {
		ids = append(ids, k.GetSecret().GetKeyId())
	}
	for _, app := range view.Apps("") {
		ids = append(ids, app.GetSecret().GetKeyId())
	}
	for _, k := range view.StorageKeys("") {
		ids = append(ids, k.GetSecret().GetKeyId())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Restore replaces the state of an empty cluster by that of a backup file. Nothing changes before all of the file has
// been read and checked. token is the caller's.
func (b backups) Restore(ctx context.Context, file io.Reader, token string) (*fleetv1.RestoreResponse, error) {
	s := b.s
	if err := s.empty(ctx); err != nil {
		return nil, err
	}
	spool, err := os.CreateTemp(s.cfg.DataDir, "restore.*")
	if err != nil {
		return nil, fmt.Errorf("keep the backup: %w", err)
	}
	defer func() {
		if err := errors.Join(spool.Close(), os.Remove(spool.Name())); err != nil {
			s.log.Warn("a restored backup is left in the data directory", "file", spool.Name(), "error", err)
		}
	}()
	st, header, err := s.load(file)
	if err != nil {
		return nil, err
	}
	here := s.state.View()
	caller := backup.TokenOf(here, token)
	resp := &fleetv1.RestoreResponse{Header: header}
	if resp.RestoreEpoch, err = backup.Restored(st, here, caller, time.Now()); err != nil {
		return nil, err
	}
	resp.Token = st.View().TokenBySecret(caller.GetSecretSha256()).GetMeta().GetName()
	size, err := st.Snapshot().Without(backup.KindScheduler).WriteTo(spool)
	if err != nil {
		return nil, fmt.Errorf("keep the backup: %w", err)
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("keep the backup: %w", err)
	}
	index := st.View().Index()
	err = s.aside(ctx, func() error {
		if err := s.empty(ctx); err != nil {
			return err
		}
		// Not the caller's context: a restore that has begun is carried through.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTime)
		defer cancel()
		if err := s.raft.Restore(ctx, index, size, spool); err != nil {
			return err
		}
		return s.certify(ctx)
	})
	if err != nil {
		return nil, err
	}
	s.log.Warn("the cluster was restored from a backup; nothing is placed, stopped or removed before an operator confirms",
		"caller", token, "cluster", header.GetClusterId(), "backup_time", header.GetTime().AsTime(), "backup_index", header.GetIndex(), "restore_epoch", resp.GetRestoreEpoch())
	return resp, nil
}

// load reads a backup that this scheduler can restore.
func (s *Server) load(file io.Reader) (*state.Store, *fleetv1.BackupHeader, error) {
	st, header, err := backup.Load(file)
	switch {
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, state.ErrSnapshot):
		return nil, nil, &api.Error{Code: codes.InvalidArgument, Msg: err.Error() + "; nothing has been changed"}
	case err != nil:
		return nil, nil, err
	case header.GetCommandVersion() > state.CommandVersion:
		return nil, nil, &api.Error{Code: codes.FailedPrecondition,
			Msg: fmt.Sprintf("the backup is of version %s, which is newer than this scheduler: restore it with that version", header.GetVersion())}
	}
	return st, header, s.canCertify(st.View().Cluster())
}

// empty answers why a backup can't be restored into the cluster as it is.
func (s *Server) empty(ctx context.Context) error {
	if err := s.raft.ReadIndex(ctx); err != nil {
		return err
	}
	view := s.state.View()
	var there []string
	count := func(n int, one string) {
		if n == 1 {
			there = append(there, "1 "+one)
		} else if n > 1 {
			there = append(there, fmt.Sprintf("%d %ss", n, one))
		}
	}
	count(len(view.Nodes()), "node")
	count(len(view.Services("")), "service")
	count(len(view.Instances()), "instance")
	count(len(view.Models("", "")), "model")
	count(len(view.Flavors()), "flavor")
	count(len(view.Pools()), "pool")
	count(len(view.Quotas()), "quota")
	count(len(view.Accounts())-1, "account") // but those that exist always
	count(len(view.Projects())-1, "project")
	count(len(view.Users())-1, "user")
	count(len(view.Keys()), "key")
	count(len(view.Apps("")), "app")
	count(len(view.Jobs("")), "job")
	count(len(view.StorageKeys("")), "storage key")
	if len(there) > 0 {
		return &api.Error{Code: codes.FailedPrecondition, Msg: "this cluster isn't empty, it has " + strings.Join(there, ", ") +
			": restore into schedulers with empty data directories"}
	}
	return nil
}

// canCertify answers why this scheduler couldn't go on with the CA of a backup.
func (s *Server) canCertify(cluster *fleetv1.Cluster) error {
	if s.keeper == nil {
		return nil
	}
	if n := len(s.raft.Status().Members); n > 1 {
		return &api.Error{Code: codes.FailedPrecondition, Msg: fmt.Sprintf("this cluster has %d schedulers, whose certificates the backup's CA doesn't know: "+
			"restore into one, and let the others join afterwards", n)}
	}
	if len(cluster.GetRoots()) == 0 {
		return nil // it gets one
	}
	if err := s.issuer().Check(cluster); err != nil {
		return &api.Error{Code: codes.FailedPrecondition, Msg: fmt.Sprintf("the key of the backup's CA can't be read: %v; nothing has been changed", err)}
	}
	return nil
}

// aside does something while this scheduler, which leads, does nothing else that leaders do, and then begins anew. It
// waits for its end, also when ctx has ended.
func (s *Server) aside(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	select {
	case s.asides <- func() { done <- do() }:
		return <-done
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopping.Done():
		return errors.New("this scheduler is stopping")
	}
}
