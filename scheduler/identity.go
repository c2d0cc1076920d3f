package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/api"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// identityDir of the data directory holds this scheduler's certificate, and ca.pem for operators.
const identityDir = "identity"

// joinTimeout is how long a new scheduler tries to get its first certificate before it gives up.
const joinTimeout = 2 * time.Minute

// CAPath is the file with the certificates that operators and look-up clients check this scheduler by; "" without TLS.
func (s *Server) CAPath() string {
	if s.keeper == nil {
		return ""
	}
	return s.keeper.CAPath()
}

// bootstraps says whether this scheduler may be the first of a cluster: not when it is to join one, or has the
// certificate of one.
func (s *Server) bootstraps() bool {
	return s.cfg.Bootstrap && s.cfg.JoinFile == "" && !identity.Exists(filepath.Join(s.cfg.DataDir, identityDir))
}

// secureRaft opens this scheduler's identity, once its ID is known and before anybody connects, and joins the cluster
// when a join file says so. A scheduler without a certificate of its own still starts: the first of a cluster is given
// one when it leads, which takes no connection.
func (s *Server) secureRaft(l net.Listener, id string) (raftstore.StreamLayer, error) {
	keeper, err := identity.Open(filepath.Join(s.cfg.DataDir, identityDir), s.log)
	if err != nil {
		return nil, err
	}
	self, has := keeper.Self()
	switch {
	case has && (self.Role != fleetv1.RoleScheduler || self.Name != id):
		return nil, fmt.Errorf("the certificate in %s is that of %s, this is scheduler %s: it belongs to another data directory", filepath.Dir(keeper.CAPath()), self, id)
	case !has && s.cfg.JoinFile != "":
		if err := s.join(keeper, id); err != nil {
			return nil, err
		}
	}
	s.keeper = keeper
	return keeper.ListenPeers(l, "Raft"), nil
}

// join gets the first certificate with a join token. The operator has copied the key file before.
func (s *Server) join(keeper *identity.Keeper, id string) error {
	keys, err := s.cfg.keyFile().Read()
	if err != nil {
		return err
	}
	file, err := s.readJoinFile()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
	defer cancel()
	if err := keeper.Join(ctx, file, fleetv1.RoleScheduler, id, s.cfg.hosts(), &keys); err != nil {
		return err
	}
	s.log.Info("this scheduler has a certificate of the cluster", "expires", keeper.Expires())
	return nil
}

func (s *Server) readJoinFile() (identity.JoinFile, error) {
	if s.cfg.JoinFile == "-" {
		if s.cfg.Stdin == nil {
			return identity.JoinFile{}, errors.New("join_file: there is no standard input")
		}
		return identity.ReadJoinFile(s.cfg.Stdin)
	}
	f, err := os.Open(s.cfg.JoinFile)
	if err != nil {
		return identity.JoinFile{}, fmt.Errorf("join_file: %w", err)
	}
	defer f.Close()
	return identity.ReadJoinFile(f)
}

// signing is what the API signs with.
func (s *Server) signing() *api.Identity {
	if s.keeper == nil {
		return nil
	}
	return &api.Identity{Issuer: s.issuer(), Schedulers: s.schedulers}
}

func (s *Server) issuer() authority.Issuer {
	return authority.Issuer{KeyFile: s.cfg.keyFile(), Lifetime: s.cfg.CertificateLifetime}
}

// schedulers are the gRPC addresses that members and operators are told: this one's, then the others'.
func (s *Server) schedulers() []string {
	all := []string{s.cfg.advertised(s.GRPCAddr())}
	for _, other := range s.state.View().Schedulers() {
		if a := other.GetGrpcAddress(); a != "" && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

func (s *Server) grpcCredentials() credentials.TransportCredentials {
	if s.keeper == nil {
		return insecure.NewCredentials()
	}
	return s.keeper.ServerCredentials()
}

// certify sees to it that the cluster has a CA, and this scheduler a certificate; for the leader. A CA comes from the
// bootstrap, and to a cluster that has run without TLS when it first runs with it.
func (s *Server) certify(ctx context.Context) error {
	if s.keeper == nil {
		return nil
	}
	if cluster := s.state.View().Cluster(); len(cluster.GetRoots()) == 0 {
		after, err := s.issuer().Begin(cluster, time.Now())
		if err != nil {
			return err
		}
		write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(cluster.GetMeta().GetRevision(), after)}}
		if err := s.write(ctx, "make the cluster's CA", write); err != nil {
			return err
		}
		s.log.Info("the cluster has a CA", "key_file", string(s.cfg.keyFile()), "root", authority.RootIDs(after)[0])
	} else if err := s.issuer().Check(cluster); err != nil {
		s.log.Error("this scheduler leads and can't sign certificates: nobody can join or renew", "error", err)
		if _, has := s.keeper.Self(); has {
			return nil
		}
		return err
	}
	self, has := s.keeper.Self()
	moved := has && self.Cluster != s.state.View().Cluster().GetMeta().GetId() // it was restored from a backup
	if has && !moved && time.Now().Before(s.keeper.Expires()) {
		return nil
	}
	p, err := identity.Prepare(s.raft.ID(), s.cfg.hosts())
	if err != nil {
		return err
	}
	cert, trust, err := s.sign(ctx, p)
	if err != nil {
		return fmt.Errorf("certify this scheduler: %w", err)
	}
	if moved {
		return s.keeper.Move(p, cert, trust)
	}
	return s.keeper.Adopt(p, cert, trust)
}

// sign gives this scheduler a certificate; it must lead.
func (s *Server) sign(ctx context.Context, p *identity.Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
	self := identity.Peer{Role: fleetv1.RoleScheduler, Name: s.raft.ID()}
	ctx = auth.NewContext(ctx, auth.Caller{Name: self.String(), Role: fleetv1.RoleScheduler, Project: fleetv1.Default, Account: fleetv1.Default})
	resp, err := s.api.Certify(ctx, self, p.CSR)
	return resp.GetCertificate(), resp.GetTrust(), err
}

// shortLifetime is that of a certificate that a scheduler which doesn't lead signs for itself.
const shortLifetime = time.Hour

// renew gives this scheduler another certificate: by its own signature while it leads, the leader's otherwise. With an
// expired one the leader doesn't let it in: then it signs for itself, by the state that it has, a short one that the
// leader soon renews.
func (s *Server) renew(ctx context.Context, p *identity.Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
	if s.raft.IsLeader() {
		return s.sign(ctx, p)
	}
	if time.Now().After(s.keeper.Expires()) {
		r, err := identity.ParseRequest(p.CSR)
		if err != nil {
			return nil, nil, err
		}
		issuer, view := s.issuer(), s.state.View()
		issuer.Lifetime = min(issuer.Lifetime, shortLifetime)
		cert, _, err := issuer.Issue(view, r, fleetv1.RoleScheduler, &fleetv1.Meta{}, time.Now())
		return cert, authority.TrustOf(view.Cluster(), fleetv1.RoleScheduler), err
	}
	return s.keeper.Renew(ctx, s.keeper.Trust().GetSchedulers(), p)
}

// followTrust keeps up whom this scheduler believes with the state, until ctx ends.
func (s *Server) followTrust(ctx context.Context) {
	feed := s.state.Subscribe()
	defer feed.Close()
	for {
		sets, resync, err := feed.Next(ctx)
		if err != nil {
			return // ctx has ended: Next has no other error
		}
		changed := resync
		for _, set := range sets {
			for _, c := range set.Changes {
				changed = changed || c.Key.Kind == fleetv1.KindCluster || c.Key.Kind == fleetv1.KindScheduler
			}
		}
		if !changed {
			continue
		}
		trust := authority.TrustOf(s.state.View().Cluster(), fleetv1.RoleScheduler)
		if trust == nil || trust.GetIndex() < s.keeper.Trust().GetIndex() {
			continue // not there yet, or, after a restart, not again: the log has not been applied to its end
		}
		if self, has := s.keeper.Self(); has && self.Cluster != trust.GetClusterId() {
			continue // restored from a backup: certify sees to it
		}
		trust.Schedulers = s.schedulers()
		if err := s.keeper.SetTrust(trust); err != nil && !errors.Is(err, identity.ErrNone) {
			s.log.Error("whom to believe has changed, and can't be kept", "error", err)
		}
	}
}

// agentTrust is what agents are told, made once for each change of the cluster.
type agentTrust struct {
	of         *fleetv1.Cluster
	schedulers []string
	trust      *fleetv1.Trust
}

func (s *Server) agentTrust() *fleetv1.Trust {
	if s.keeper == nil {
		return nil
	}
	cluster := s.state.View().Cluster()
	schedulers := s.schedulers()
	if known := s.trusted.Load(); known != nil && known.of == cluster && slices.Equal(known.schedulers, schedulers) {
		return known.trust
	}
	made := &agentTrust{cluster, schedulers, authority.TrustOf(cluster, fleetv1.RoleAgent)}
	if made.trust != nil {
		made.trust.Schedulers = schedulers
	}
	s.trusted.Store(made)
	return made.trust
}
