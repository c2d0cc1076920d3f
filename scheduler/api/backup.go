package api

import (
	"bufio"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

const (
	// backupPiece is how much of a backup is sent in one message.
	backupPiece = 256 << 10
	// maxBackup is how long a backup may be that is restored.
	maxBackup = 16 << 30
	// confirmedAtOnce is how many nodes are confirmed in one entry of the log.
	confirmedAtOnce = 200
)

type backupServer struct {
	*API
	fleetv1.UnimplementedBackupServiceServer
}

func (s *backupServer) Backup(_ *fleetv1.BackupRequest, stream grpc.ServerStreamingServer[fleetv1.BackupResponse]) error {
	out := bufio.NewWriterSize(backupWriter{stream}, backupPiece)
	if err := s.cfg.Backups.Backup(stream.Context(), out); err != nil {
		return err
	}
	s.cfg.Logger.Info("the state was backed up", "caller", caller(stream.Context()).Name)
	return out.Flush()
}

type backupWriter struct {
	stream grpc.ServerStreamingServer[fleetv1.BackupResponse]
}

func (w backupWriter) Write(b []byte) (int, error) {
	return len(b), w.stream.Send(&fleetv1.BackupResponse{Data: b})
}

func (s *backupServer) Restore(stream grpc.ClientStreamingServer[fleetv1.RestoreRequest, fleetv1.RestoreResponse]) error {
	resp, err := s.cfg.Backups.Restore(stream.Context(), &backupReader{stream: stream}, caller(stream.Context()).Name)
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

type backupReader struct {
	stream grpc.ClientStreamingServer[fleetv1.RestoreRequest, fleetv1.RestoreResponse]
	left   []byte
	total  int64
}

func (r *backupReader) Read(b []byte) (int, error) {
	for len(r.left) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return 0, err // io.EOF when the caller has sent all
		}
		r.left = m.GetData()
		if r.total += int64(len(r.left)); r.total > maxBackup {
			return 0, refuse(codes.ResourceExhausted, "the backup is longer than %d GiB", maxBackup>>30)
		}
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (s *backupServer) ListRemovals(ctx context.Context, _ *fleetv1.ListRemovalsRequest) (*fleetv1.ListRemovalsResponse, error) {
	if err := s.cfg.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	view := s.view()
	resp := &fleetv1.ListRemovalsResponse{RestoreEpoch: view.Cluster().GetRestoreEpoch(), Held: state.RemovalsHeld(view)}
	for _, n := range view.Nodes() {
		hold := n.GetFacts().GetHold()
		switch name := n.GetMeta().GetName(); {
		case len(hold.GetStrangers()) > 0:
			resp.Nodes = append(resp.Nodes, &fleetv1.NodeRemovals{Node: name, Hold: hold})
		case !reported(n, resp.GetRestoreEpoch()):
			resp.SilentNodes = append(resp.SilentNodes, name)
		}
	}
	return resp, nil
}

// reported says that the node has told what it runs since the restore, or that this has been confirmed.
func reported(n *fleetv1.Node, epoch uint64) bool {
	return n.GetFacts().GetHold().GetRestoreEpoch() == epoch || n.GetSpec().GetRemovalsConfirmed() >= epoch
}

func (s *backupServer) ConfirmRemovals(ctx context.Context, req *fleetv1.ConfirmRemovalsRequest) (*fleetv1.ConfirmRemovalsResponse, error) {
	seen := map[string]bool{}
	for _, id := range req.GetInstanceIds() {
		seen[id] = true
	}
	resp := &fleetv1.ConfirmRemovalsResponse{}
	for more := true; more; {
		part := proto.CloneOf(req)
		part.RequestId = "" // each part can be repeated; the last one carries the ID
		err := s.mutate(ctx, part, func(ctx context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
			if err := checkEpoch(view, req.GetRestoreEpoch()); err != nil {
				return nil, err
			}
			var write *fleetv1.Write
			write, resp.Notes, more = confirmNodes(ctx, view, req.GetRestoreEpoch(), seen)
			return write, nil
		})
		if err != nil {
			return nil, err
		}
	}
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		if err := checkEpoch(view, req.GetRestoreEpoch()); err != nil || !state.RemovalsHeld(view) {
			return nil, err
		}
		cluster := proto.CloneOf(view.Cluster())
		cluster.RemovalsConfirmed = req.GetRestoreEpoch()
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(view.Cluster().GetMeta().GetRevision(), cluster)}}, nil
	})
	if err != nil {
		return nil, err
	}
	for _, n := range s.view().Nodes() {
		if n.GetSpec().GetRemovalsConfirmed() == req.GetRestoreEpoch() {
			resp.Nodes = append(resp.Nodes, n.GetMeta().GetName())
		}
	}
	return resp, nil
}

func checkEpoch(view state.ReadView, epoch uint64) error {
	switch now := view.Cluster().GetRestoreEpoch(); {
	case now == 0:
		return refuse(codes.FailedPrecondition, "this cluster was never restored from a backup: there is nothing to confirm")
	case now != epoch:
		return refuse(codes.FailedPrecondition, "the list is of restore epoch %d, this cluster is at %d: look at `drover cluster restore --pending` again", epoch, now)
	}
	return nil
}

// confirmNodes is the write that lets nodes remove what an operator has seen, the notes on all others, and whether
// there are more.
func confirmNodes(ctx context.Context, view state.ReadView, epoch uint64, seen map[string]bool) (write *fleetv1.Write, notes []string, more bool) {
	for _, n := range view.Nodes() {
		if n.GetSpec().GetRemovalsConfirmed() >= epoch {
			continue
		}
		name, strangers := n.GetMeta().GetName(), n.GetFacts().GetHold().GetStrangers()
		if !reported(n, epoch) {
			notes = append(notes, fmt.Sprintf("node %s has not reported since the restore: what it runs stays until you confirm again", name))
			continue
		}
		if unseen := unseenOf(strangers, seen); unseen != nil {
			notes = append(notes, fmt.Sprintf("node %s also runs %s of service %s, which was not in the list: look again", name, unseen.GetInstanceName(), unseen.GetService()))
			continue
		}
		if len(write.GetMutations()) == confirmedAtOnce {
			return write, notes, true
		}
		if write == nil {
			write = &fleetv1.Write{}
		}
		after := proto.CloneOf(n)
		if after.Spec == nil {
			after.Spec = &fleetv1.NodeSpec{}
		}
		after.Spec.RemovalsConfirmed = epoch
		write.Mutations = append(write.Mutations, state.Put(n.GetMeta().GetRevision(), after))
		if len(strangers) > 0 {
			write.Events = append(write.Events, nodeEvent(n, "RemovalsConfirmed",
				fmt.Sprintf("%s confirmed that the %d instances go which the restored state doesn't know", caller(ctx).Name, len(strangers))))
		}
	}
	return write, notes, false
}

func unseenOf(strangers []*fleetv1.Stranger, seen map[string]bool) *fleetv1.Stranger {
	for _, s := range strangers {
		if !seen[s.GetInstanceId()] {
			return s
		}
	}
	return nil
}
