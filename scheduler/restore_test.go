package scheduler_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// restore sends a backup file as one message.
func (s *secured) restore(file []byte) (*fleetv1.RestoreResponse, error) {
	s.t.Helper()
	in, err := s.client.Backups.Restore(s.context())
	s.must(err)
	s.must(in.Send(&fleetv1.RestoreRequest{Data: file}))
	return in.CloseAndRecv()
}

// A restored cluster has the CA of the backup: who has a certificate of it is let in as before, and the scheduler has one.
func TestARestoredClusterHasItsCA(t *testing.T) {
	old := secureConfig(t.TempDir())
	s := runSecure(t, old)
	node := s.member(fleetv1.RoleAgent, "n1")
	out, err := s.client.Backups.Backup(s.context(), &fleetv1.BackupRequest{})
	s.must(err)
	var file []byte
	for {
		m, err := out.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		s.must(err)
		file = append(file, m.GetData()...)
	}
	former, err := identity.Open(filepath.Join(old.DataDir, "identity"), slog.New(slog.DiscardHandler))
	s.must(err)
	ca, err := os.ReadFile(s.CAPath())
	s.must(err)
	token, err := os.ReadFile(filepath.Join(old.DataDir, scheduler.AdminTokenFile))
	s.must(err)
	s.stop()

	// The key that the CA's is encrypted under isn't in the backup.
	s = runSecure(t, secureConfig(t.TempDir()))
	if _, err := s.restore(file); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "nothing has been changed") {
		t.Errorf("without the key: %v", err)
	}
	s.stop()

	cfg := secureConfig(t.TempDir())
	cfg.KeyFile = filepath.Join(old.DataDir, "cluster.key")
	s = runSecure(t, cfg)
	s.within("it gossips as a cluster of its own", func() bool { return s.log.line("scheduler gossips") != "" })
	resp, err := s.restore(file)
	s.must(err)
	if len(resp.GetHeader().GetEncryptionKeyIds()) != 1 {
		t.Errorf("the backup names the keys %v", resp.GetHeader().GetEncryptionKeyIds())
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	s.must(os.WriteFile(caFile, ca, 0o600))
	operator, err := client.Dial(client.Config{Addr: s.GRPCAddr(), Token: strings.TrimSpace(string(token)), CAFile: caFile})
	s.must(err)
	defer operator.Close()
	list, err := operator.Backups.ListRemovals(s.context(), &fleetv1.ListRemovalsRequest{})
	if err != nil || !list.GetHeld() {
		t.Errorf("with the CA and the token of before: %v, %v", list, err)
	}
	s.within("it gossips as a member of the restored cluster", func() bool {
		return s.log.line("scheduler gossips", "cluster="+resp.GetHeader().GetClusterId()) != ""
	})
	// The scheduler of before may still run: its log would go on over the restored one.
	raft, err := tls.Dial("tcp", s.RaftAddr(), former.PeerTLS()) // whose end of the handshake comes first
	s.must(err)
	defer raft.Close()
	s.audited("port=Raft", "its certificate is revoked")
	stream, err := fleetv1.NewAgentServiceClient(s.dial(node)).Session(s.context())
	s.must(err)
	s.must(stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "n1", Facts: facts()}}}))
	if m, err := stream.Recv(); err != nil || m.GetWelcome().GetClusterId() != resp.GetHeader().GetClusterId() {
		t.Errorf("a node with a certificate of before is answered %v, %v", m, err)
	}
}
