package authority

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// MaxLifetime is the longest that a certificate can be made for.
const MaxLifetime = 366 * 24 * time.Hour

// Issuer signs with the CA's key, which it decrypts for each signature.
type Issuer struct {
	KeyFile  identity.KeyFile
	Lifetime time.Duration // of a certificate
}

// TrustOf is whom members are to believe. Role is of the member who is told: agents meet schedulers alone, and what
// changes for others changes nothing for them. It is nil in a cluster without a CA.
func TrustOf(c *fleetv1.Cluster, role string) *fleetv1.Trust {
	if len(c.GetRoots()) == 0 {
		return nil
	}
	t := &fleetv1.Trust{ClusterId: c.GetMeta().GetId()}
	if role == fleetv1.RoleScheduler {
		t.Index = c.GetMeta().GetRevision()
	}
	for _, r := range c.GetRoots() {
		t.Roots = append(t.Roots, r.GetCertificate())
	}
	for _, r := range c.GetRevocations() {
		if role == fleetv1.RoleScheduler || r.GetRole() == fleetv1.RoleScheduler {
			t.Revocations = append(t.Revocations, r)
		}
	}
	return t
}

// RootIDs name the cluster's trusted roots; the first one issues.
func RootIDs(c *fleetv1.Cluster) []string {
	var ids []string
	for _, r := range c.GetRoots() {
		ids = append(ids, identity.RootID(r.GetCertificate()))
	}
	return ids
}

// Living is the certificate of a node or scheduler unless there is none or it has expired.
func Living(view state.ReadView, role, name string, now time.Time) *fleetv1.Certificate {
	if c := view.Certificate(role, name); c.GetExpireTime().AsTime().After(now) {
		return c
	}
	return nil
}

// Revoked is the revocation of the name, or nil.
func Revoked(c *fleetv1.Cluster, role, name string) *fleetv1.Revocation {
	for _, r := range c.GetRevocations() {
		if r.GetRole() == role && r.GetName() == name {
			return r
		}
	}
	return nil
}

// Begin gives a cluster without a CA its first root, and makes the key file when there is none.
func (i Issuer) Begin(c *fleetv1.Cluster, now time.Time) (*fleetv1.Cluster, error) {
	if err := i.KeyFile.Make(); err != nil {
		return nil, err
	}
	keys, err := i.KeyFile.Read()
	if err != nil {
		return nil, err
	}
	a, err := identity.NewAuthority(c.GetMeta().GetId(), now)
	if err != nil {
		return nil, err
	}
	root, err := a.Root(keys)
	if err != nil {
		return nil, err
	}
	c = proto.CloneOf(c)
	c.Roots = []*fleetv1.Root{root}
	return c, nil
}

// open is the authority of the root that issues, and the keys it was opened with.
func (i Issuer) open(c *fleetv1.Cluster) (*identity.Authority, identity.Keys, error) {
	keys, err := i.KeyFile.Read()
	if err != nil {
		return nil, identity.Keys{}, err
	}
	if len(c.GetRoots()) == 0 {
		return nil, identity.Keys{}, fmt.Errorf("the cluster has no CA yet")
	}
	a, err := identity.OpenAuthority(c.GetMeta().GetId(), c.GetRoots()[0], keys)
	return a, keys, err
}

// Check says why certificates can't be signed.
func (i Issuer) Check(c *fleetv1.Cluster) error {
	_, _, err := i.open(c)
	return err
}

// Issue signs a certificate for the request's name; the mutation records it.
func (i Issuer) Issue(view state.ReadView, r identity.Request, role string, meta *fleetv1.Meta, now time.Time) (*fleetv1.IssuedCertificate, *fleetv1.Mutation, error) {
	cluster := view.Cluster()
	a, _, err := i.open(cluster)
	if err != nil {
		return nil, nil, err
	}
	before := view.Certificate(role, r.Name)
	issued := time.Unix(0, max(now.UnixNano(), before.GetIssuedUnixNano()+1, Revoked(cluster, role, r.Name).GetUntilUnixNano()+1))
	cert, who, err := a.Issue(r, role, issued, i.Lifetime, cluster.GetRoots())
	if err != nil {
		return nil, nil, err
	}
	record := &fleetv1.Certificate{
		Meta: meta, Role: role, Name: r.Name, Serial: who.Serial, IssuedUnixNano: who.Issued.UnixNano(),
		ExpireTime: timestamppb.New(issued.Add(i.Lifetime)), Root: identity.RootID(cluster.GetRoots()[0].GetCertificate()),
	}
	record.Meta.Name = who.String()
	return cert, state.Put(before.GetMeta().GetRevision(), record), nil
}

// Revoke refuses all certificates that the node or scheduler has been given up to now, and forgets the last one.
func Revoke(view state.ReadView, role, name, caller string, now time.Time) []*fleetv1.Mutation {
	last := view.Certificate(role, name)
	out := []*fleetv1.Mutation{revoke(view.Cluster(), role, name, caller, max(now.UnixNano(), last.GetIssuedUnixNano()), now)}
	if last != nil {
		out = append(out, state.Delete(last.GetMeta().GetRevision(), state.CertificateKey(role, name)))
	}
	return out
}

// Supersede refuses the last certificate of a name and those before it, for one that Issue signs by the same view.
func Supersede(view state.ReadView, role, name, caller string, now time.Time) *fleetv1.Mutation {
	return revoke(view.Cluster(), role, name, caller, view.Certificate(role, name).GetIssuedUnixNano(), now)
}

// Retire refuses, in the cluster, all certificates that schedulers have been given up to now, but for those of keep, and
// answers what forgets the last ones: theirs is a history that this cluster doesn't go on with.
func Retire(view state.ReadView, cluster *fleetv1.Cluster, keep func(id string) bool, caller string, now time.Time) (forget []*fleetv1.Mutation) {
	for _, c := range view.Certificates() {
		if c.GetRole() == fleetv1.RoleScheduler && !keep(c.GetName()) {
			refuse(cluster, c.GetRole(), c.GetName(), caller, max(now.UnixNano(), c.GetIssuedUnixNano()), now)
			forget = append(forget, state.Delete(c.GetMeta().GetRevision(), state.CertificateKey(c.GetRole(), c.GetName())))
		}
	}
	return forget
}

func revoke(cluster *fleetv1.Cluster, role, name, caller string, until int64, now time.Time) *fleetv1.Mutation {
	cluster = proto.CloneOf(cluster)
	refuse(cluster, role, name, caller, until, now)
	return state.Put(cluster.GetMeta().GetRevision(), cluster)
}

func refuse(cluster *fleetv1.Cluster, role, name, caller string, until int64, now time.Time) {
	until = max(until, Revoked(cluster, role, name).GetUntilUnixNano())
	cluster.Revocations = slices.DeleteFunc(cluster.Revocations, func(r *fleetv1.Revocation) bool {
		old := time.Unix(0, r.GetUntilUnixNano()).Add(MaxLifetime).Before(now)
		return r.GetRole() == role && r.GetName() == name || r.GetRole() == fleetv1.RoleAgent && old
	})
	cluster.Revocations = append(cluster.Revocations, &fleetv1.Revocation{Role: role, Name: name, UntilUnixNano: until, Caller: caller})
}

// GossipKeyAbout is what the keys of the schedulers' gossip are sealed for.
const GossipKeyAbout = "the schedulers' gossip"

// resealGossip encrypts the gossip keys under the first key. Those that can't be opened are an error, or are dropped.
func resealGossip(c *fleetv1.Cluster, keys identity.Keys, drop bool) error {
	var out []*fleetv1.GossipKey
	for _, k := range c.GetGossipKeys() {
		key, err := keys.Open(k.GetSealed(), GossipKeyAbout)
		if err != nil && drop {
			continue
		}
		if err == nil {
			k.Sealed, err = keys.Seal(key, GossipKeyAbout)
		}
		if err != nil {
			return fmt.Errorf("gossip key %s: %w", k.GetId(), err)
		}
		out = append(out, k)
	}
	c.GossipKeys = out
	return nil
}

// Reseal encrypts the CA's key, and those of the gossip, under the first key of the key file.
func (i Issuer) Reseal(c *fleetv1.Cluster) (*fleetv1.Cluster, error) {
	a, keys, err := i.open(c)
	if err != nil {
		return nil, err
	}
	root, err := a.Root(keys)
	if err != nil {
		return nil, err
	}
	c = proto.CloneOf(c)
	c.Roots[0] = root
	return c, resealGossip(c, keys, false)
}

// Rotate makes the next root, which issues from now on and is trusted beside the one before. The one before signs it,
// unless its key can't be had and alone says that it must be done all the same: then only those hear of the new root
// who are connected before the schedulers renew, and gossip keys that can't be had are forgotten.
func (i Issuer) Rotate(c *fleetv1.Cluster, alone bool, now time.Time) (*fleetv1.Cluster, error) {
	var next *identity.Authority
	a, keys, err := i.open(c)
	switch {
	case err == nil:
		next, err = a.Successor(now)
	case alone:
		if keys, err = i.KeyFile.Read(); err == nil {
			next, err = identity.NewAuthority(c.GetMeta().GetId(), now)
		}
	}
	if err != nil {
		return nil, err
	}
	root, err := next.Root(keys)
	if err != nil {
		return nil, err
	}
	c = proto.CloneOf(c)
	c.Roots[0].Key = nil
	c.Roots = append([]*fleetv1.Root{root}, c.Roots...)
	return c, resealGossip(c, keys, alone)
}

// Finish ends the trust in all roots but the one that issues.
func Finish(c *fleetv1.Cluster) *fleetv1.Cluster {
	c = proto.CloneOf(c)
	c.Roots = c.Roots[:1]
	c.Roots[0].Cross = nil
	return c
}

// Holders are who has a living certificate of another root than the one that issues, as "ROLE/NAME".
func Holders(view state.ReadView, now time.Time) []string {
	current := RootIDs(view.Cluster())[0]
	var out []string
	for _, c := range view.Certificates() {
		if c.GetRoot() != current && c.GetExpireTime().AsTime().After(now) {
			out = append(out, c.GetRole()+"/"+c.GetName())
		}
	}
	slices.SortFunc(out, func(a, b string) int { return -strings.Compare(a, b) }) // schedulers first
	return out
}
