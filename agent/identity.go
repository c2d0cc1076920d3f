package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// prepareJoin reads the join file of a node that has no certificate, or an expired one, and checks that the certificate of one that has is
// the node's own.
func (a *Agent) prepareJoin() error {
	if a.identity == nil {
		return nil
	}
	if self, ok := a.identity.Self(); ok {
		if self.Role != fleetv1.RoleAgent || self.Name != a.cfg.NodeName {
			return fmt.Errorf("node_name: this node is to be %q, and its certificate (%s) is that of %s: set node_name to that name, or remove the file and join again",
				a.cfg.NodeName, a.identity.CAPath(), self)
		}
		if a.cfg.JoinFile == "" || time.Now().Before(a.identity.Expires()) {
			return nil
		}
	}
	var from io.Reader
	switch a.cfg.JoinFile {
	case "":
		return errors.New("this node has no certificate yet: run the agent with --join-file FILE, which drover cluster join-token prints (or with insecure: true, for a scheduler without TLS on this host)")
	case "-":
		if from = a.cfg.Stdin; from == nil {
			return errors.New("join_file: there is no standard input")
		}
	default:
		f, err := os.Open(a.cfg.JoinFile)
		if err != nil {
			return fmt.Errorf("join_file: %w", err)
		}
		defer f.Close()
		from = f
	}
	file, err := identity.ReadJoinFile(from)
	if err != nil {
		return err
	}
	a.joining = &file
	return nil
}

// expires is when this node's certificate does; zero when it has none.
func (a *Agent) expires() time.Time {
	if a.identity == nil {
		return time.Time{}
	}
	return a.identity.Expires()
}

// schedulers are the addresses to connect to.
func (a *Agent) schedulers() []string {
	if len(a.cfg.Schedulers) > 0 || a.identity == nil {
		return a.cfg.Schedulers
	}
	return a.identity.Trust().GetSchedulers()
}

// connect joins the cluster if this node has not, and keeps a session and the certificate until ctx ends. What runs
// here goes on meanwhile.
func (a *Agent) connect(ctx context.Context) error {
	if a.joining != nil {
		if err := a.identity.Join(ctx, *a.joining, fleetv1.RoleAgent, a.cfg.NodeName, nil, nil); err != nil {
			return err
		}
		a.deps.Logger.Info("this node has a certificate", "expires", a.identity.Expires())
	}
	if a.identity == nil {
		return a.session.Run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.identity.Run(ctx, nil, func(ctx context.Context, p *identity.Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
			return a.identity.Renew(ctx, a.schedulers(), p)
		})
	}()
	err := a.session.Run(ctx)
	cancel()
	<-done
	return err
}
