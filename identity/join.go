package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Bounds of asking for a certificate.
const (
	callTimeout = 15 * time.Second
	firstPause  = 200 * time.Millisecond
	lastPause   = 10 * time.Second
)

// Join gets this process its first certificate, with a join token: it asks the schedulers of the file in turn until
// one answers or ctx ends. A refusal by a scheduler is final. Hosts are those of Prepare. keys are a scheduler's, nil
// for an agent: without the one that the cluster's CA needs no certificate is kept, and joining again asks again.
func (k *Keeper) Join(ctx context.Context, file JoinFile, role, name string, hosts []string, keys *Keys) error {
	key, err := k.joinKey()
	if err != nil {
		return err
	}
	p, err := request(key, name, hosts)
	if err != nil {
		return err
	}
	req := &fleetv1.JoinRequest{Secret: file.Token.Secret, Csr: p.CSR, Role: role}
	var resp *fleetv1.JoinResponse
	err = inTurn(ctx, file.Schedulers, func(ctx context.Context, addr string) error {
		return call(ctx, addr, credentials.NewTLS(pinned(file.Token.CA)), func(ctx context.Context, conn *grpc.ClientConn) error {
			var err error
			resp, err = fleetv1.NewJoinServiceClient(conn).Join(ctx, req)
			return err
		})
	}, func(addr string, err error) {
		k.log.Warn("can't join yet", "scheduler", addr, "error", err)
	})
	if err == nil && keys != nil {
		err = keys.Require(resp.GetKeyId())
	}
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	trust := resp.GetTrust()
	if len(trust.GetSchedulers()) == 0 {
		trust.Schedulers = file.Schedulers
	}
	if err := k.Adopt(p, resp.GetCertificate(), trust); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if err := os.Remove(filepath.Join(k.dir, joinKeyFile)); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	return nil
}

// Renew asks the schedulers in turn, once each, for another certificate for the pending key.
func (k *Keeper) Renew(ctx context.Context, schedulers []string, p *Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
	var errs []error
	for _, addr := range schedulers {
		var resp *fleetv1.RenewResponse
		err := call(ctx, addr, k.ClientCredentials(), func(ctx context.Context, conn *grpc.ClientConn) error {
			var err error
			resp, err = fleetv1.NewJoinServiceClient(conn).Renew(ctx, &fleetv1.RenewRequest{Csr: p.CSR})
			return err
		})
		if err == nil {
			return resp.GetCertificate(), resp.GetTrust(), nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no scheduler is known"))
	}
	return nil, nil, errors.Join(errs...)
}

func call(ctx context.Context, addr string, creds credentials.TransportCredentials, do func(context.Context, *grpc.ClientConn) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return do(ctx, conn)
}

// inTurn tries the addresses one after the other, with growing pauses between the rounds, until one answers.
func inTurn(ctx context.Context, addrs []string, try func(context.Context, string) error, failed func(string, error)) error {
	pause := firstPause
	for {
		for _, addr := range addrs {
			err := try(ctx, addr)
			if err == nil {
				return nil
			}
			if final(err) {
				return fmt.Errorf("%s: %w", addr, err)
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
			failed(addr, err)
		}
		if err := wait(ctx, pause/2+rand.N(pause)); err != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

// final says that asking again can't help.
func final(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists, codes.Unimplemented:
		return true
	}
	return false
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// pinned believes a scheduler whose chain leads to the root with the digest, which the scheduler sends along.
func pinned(root [32]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The root comes with the handshake; VerifyConnection checks it, and the chain.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, c := range s.PeerCertificates {
				if RootID(c.Raw) != fmt.Sprintf("%x", root) {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(c)
				if err := verifyChain(s.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
					return err
				}
				p, err := peerOf(s.PeerCertificates[0])
				if err == nil && p.Role != fleetv1.RoleScheduler {
					err = &PeerError{p, errors.New("its certificate is not a scheduler's")}
				}
				return err
			}
			return errors.New("this is not the cluster that the join token is of: none of the certificates has the token's digest")
		},
	}
}
