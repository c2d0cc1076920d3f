package identity

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Renewal asks for a certificate for the pending key.
type Renewal func(ctx context.Context, p *Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error)

// Bounds of the growing pause after a failed renewal, and of how long a node waits that learns of a new root: a whole fleet does.
const (
	leastRetry   = 200 * time.Millisecond
	mostRetry    = time.Hour
	mostNewRoots = 10 * time.Minute
)

// Run renews the certificate, once there is one, until ctx ends: when two thirds of its lifetime are over, when another root issues, and
// when it has other hosts than it should have (hosts may be nil). Connections go on; new ones use the new certificate.
func (k *Keeper) Run(ctx context.Context, hosts []string, renew Renewal) {
	pause := leastRetry
	for ctx.Err() == nil {
		changed := k.Changed()
		g := k.current()
		if g == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		due := time.NewTimer(time.Until(k.due(g, hosts)))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due.C:
			err := k.renew(ctx, g.self.Name, hosts, renew)
			if err == nil {
				pause = leastRetry
				break
			}
			if ctx.Err() == nil {
				k.log.Warn("the certificate is not renewed yet", "expires", g.cert.Leaf.NotAfter, "again_in", pause, "error", err)
				_ = wait(ctx, pause/2+rand.N(pause)) // the loop looks at ctx
				pause = min(2*pause, max(g.lifetime()/100, leastRetry), mostRetry)
			}
		}
		due.Stop()
	}
}

func (k *Keeper) renew(ctx context.Context, name string, hosts []string, renew Renewal) error {
	p, err := Prepare(name, hosts)
	if err != nil {
		return err
	}
	issued, trust, err := renew(ctx, p)
	if err != nil {
		return err
	}
	if len(trust.GetSchedulers()) == 0 {
		trust.Schedulers = k.Trust().GetSchedulers()
	}
	if err := k.Adopt(p, issued, trust); err != nil {
		return err
	}
	k.log.Info("the certificate is renewed", "expires", k.Expires())
	return nil
}

func (g *generation) lifetime() time.Duration { return g.cert.Leaf.NotAfter.Sub(g.self.Issued) }

// due is when the certificate is to be renewed.
func (k *Keeper) due(g *generation, hosts []string) time.Time {
	now := time.Now()
	if hosts != nil && !k.Hosts(hosts) {
		return now
	}
	at := g.self.Issued.Add(g.lifetime()*2/3 - rand.N(g.lifetime()/30+1))
	if !bytes.Equal(g.issuer(), g.trust.GetRoots()[0]) {
		if g.self.Role == fleetv1.RoleScheduler {
			return now // they are few, and new join files let nobody in before: those name the new root
		}
		if soon := now.Add(rand.N(min(g.lifetime()/1000, mostNewRoots) + 1)); soon.Before(at) {
			return soon
		}
	}
	return at
}

// issuer is the trusted root whose key has signed the certificate, or nil.
func (g *generation) issuer() []byte {
	for _, der := range g.trust.GetRoots() {
		if root := parsed(der); root != nil && g.cert.Leaf.CheckSignatureFrom(root) == nil {
			return der
		}
	}
	return nil
}
