package authority

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// world is a store that takes mutations at once.
type world struct {
	t      *testing.T
	store  *state.Store
	index  uint64
	issuer Issuer
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: state.New(), now: time.Now(),
		issuer: Issuer{KeyFile: identity.KeyFile(filepath.Join(t.TempDir(), "cluster.key")), Lifetime: time.Hour}}
	cluster, err := w.issuer.Begin(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}}, w.now)
	w.must(err)
	w.write(state.Put(0, cluster))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(mutations ...*fleetv1.Mutation) {
	w.t.Helper()
	cmd := &fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: mutations}}}
	cmd.Introduced = state.Introduced(cmd)
	w.index++
	if result, _ := w.store.Apply(w.index, cmd); len(result.Rejections) > 0 {
		w.t.Fatalf("refused: %v", result.Rejections)
	}
}

func (w *world) view() state.ReadView { return w.store.View() }

// issue gives a certificate and answers its record.
func (w *world) issue(role, name string, also ...*fleetv1.Mutation) *fleetv1.Certificate {
	w.t.Helper()
	p, err := identity.Prepare(name, nil)
	w.must(err)
	r, err := identity.ParseRequest(p.CSR)
	w.must(err)
	_, record, err := w.issuer.Issue(w.view(), r, role, &fleetv1.Meta{}, w.now)
	w.must(err)
	w.write(append(also, record)...)
	return w.view().Certificate(role, name)
}

func (w *world) refused(c *fleetv1.Certificate) bool {
	return Revoked(w.view().Cluster(), c.GetRole(), c.GetName()).GetUntilUnixNano() >= c.GetIssuedUnixNano()
}

// Times of issue grow for each name, and a revocation reaches all before it, even when the clock goes back.
func TestTimesGrow(t *testing.T) {
	w := newWorld(t)
	first := w.issue(fleetv1.RoleAgent, "n1")
	w.now = w.now.Add(-time.Hour)
	second := w.issue(fleetv1.RoleAgent, "n1")
	if second.GetIssuedUnixNano() <= first.GetIssuedUnixNano() {
		t.Errorf("issued at %d, then at %d", first.GetIssuedUnixNano(), second.GetIssuedUnixNano())
	}
	other := w.issue(fleetv1.RoleAgent, "n2")
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n1", "root", w.now)...)
	if !w.refused(first) || !w.refused(second) || w.refused(other) || w.view().Certificate(fleetv1.RoleAgent, "n1") != nil {
		t.Error("the revocation reaches too much or too little")
	}
	w.now = w.now.Add(-time.Hour)
	third := w.issue(fleetv1.RoleAgent, "n1")
	if w.refused(third) {
		t.Error("a certificate that was given afterwards is refused")
	}
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n1", "root", w.now)...)
	if !w.refused(third) || len(w.view().Cluster().GetRevocations()) != 1 {
		t.Errorf("revoked again: %v", w.view().Cluster().GetRevocations())
	}
}

func TestSupersede(t *testing.T) {
	w := newWorld(t)
	first := w.issue(fleetv1.RoleAgent, "n1")
	second := w.issue(fleetv1.RoleAgent, "n1", Supersede(w.view(), fleetv1.RoleAgent, "n1", "token", w.now))
	if !w.refused(first) || w.refused(second) {
		t.Errorf("first refused: %v, second: %v", w.refused(first), w.refused(second))
	}
}

// Revocations of nodes go when nothing is left that they refuse; those of schedulers stay.
func TestOldRevocations(t *testing.T) {
	w := newWorld(t)
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n1", "root", w.now)...)
	w.write(Revoke(w.view(), fleetv1.RoleScheduler, "s1", "root", w.now)...)
	names := func() (out []string) {
		for _, r := range w.view().Cluster().GetRevocations() {
			out = append(out, r.GetRole()+"/"+r.GetName())
		}
		return out
	}
	w.now = w.now.Add(MaxLifetime - time.Minute)
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n2", "root", w.now)...)
	if got := names(); !slices.Equal(got, []string{"agent/n1", "scheduler/s1", "agent/n2"}) {
		t.Errorf("before the end: %v", got)
	}
	w.now = w.now.Add(2 * time.Minute)
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n3", "root", w.now)...)
	if got := names(); !slices.Equal(got, []string{"scheduler/s1", "agent/n2", "agent/n3"}) {
		t.Errorf("after it: %v", got)
	}
}

func TestTrustOf(t *testing.T) {
	w := newWorld(t)
	if TrustOf(&fleetv1.Cluster{}, fleetv1.RoleAgent) != nil {
		t.Error("there is trust without a CA")
	}
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n1", "root", w.now)...)
	w.write(Revoke(w.view(), fleetv1.RoleScheduler, "s1", "root", w.now)...)
	cluster := w.view().Cluster()
	full, part := TrustOf(cluster, fleetv1.RoleScheduler), TrustOf(cluster, fleetv1.RoleAgent)
	if len(full.GetRevocations()) != 2 || len(part.GetRevocations()) != 1 || part.GetRevocations()[0].GetName() != "s1" {
		t.Errorf("schedulers are told %v, agents %v", full.GetRevocations(), part.GetRevocations())
	}
	at := w.index
	w.write(Revoke(w.view(), fleetv1.RoleAgent, "n2", "root", w.now)...)
	if after := TrustOf(w.view().Cluster(), fleetv1.RoleAgent); !proto.Equal(part, after) {
		t.Errorf("an agent hears of another's revocation: %v", after)
	}
	part.Revocations, part.Index = full.GetRevocations(), full.GetIndex()
	if !proto.Equal(full, part) || full.GetIndex() != at || full.GetClusterId() != "c1" {
		t.Errorf("they differ in more: %v, %v", full, part)
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	w.issue(fleetv1.RoleAgent, "n1")
	w.issue(fleetv1.RoleScheduler, "s1")
	change := func(c *fleetv1.Cluster, err error) {
		t.Helper()
		w.must(err)
		w.write(state.Put(w.view().Cluster().GetMeta().GetRevision(), c))
	}
	change(w.issuer.Rotate(w.view().Cluster(), false, w.now))
	roots := w.view().Cluster().GetRoots()
	if len(roots) != 2 || roots[0].GetKey() == nil || len(roots[0].GetCross()) == 0 || roots[1].GetKey() != nil {
		t.Fatalf("roots %v", roots)
	}
	if got := Holders(w.view(), w.now); !slices.Equal(got, []string{"scheduler/s1", "agent/n1"}) {
		t.Errorf("certificates of the old root: %v", got)
	}
	w.issue(fleetv1.RoleScheduler, "s1")
	if got := Holders(w.view(), w.now); !slices.Equal(got, []string{"agent/n1"}) {
		t.Errorf("after a renewal: %v", got)
	}
	if got := Holders(w.view(), w.now.Add(2*time.Hour)); len(got) != 0 {
		t.Errorf("expired ones count: %v", got)
	}
	change(Finish(w.view().Cluster()), nil)
	if ids := RootIDs(w.view().Cluster()); len(ids) != 1 || ids[0] != identity.RootID(roots[0].GetCertificate()) {
		t.Errorf("roots %v", ids)
	}
	w.must(w.issuer.Check(w.view().Cluster()))
}

// The gossip keys change hands with the CA's: under a new key-encryption key, or forgotten where the old one is lost.
func TestGossipKeysFollow(t *testing.T) {
	w := newWorld(t)
	before, err := w.issuer.KeyFile.Read()
	w.must(err)
	sealed, err := before.Seal([]byte("gossip"), GossipKeyAbout)
	w.must(err)
	cluster := proto.CloneOf(w.view().Cluster())
	cluster.GossipKeys = []*fleetv1.GossipKey{{Id: "k", Sealed: sealed, Primary: true}}

	old, err := os.ReadFile(string(w.issuer.KeyFile))
	w.must(err)
	fresh := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n"
	w.must(os.WriteFile(string(w.issuer.KeyFile), append([]byte(fresh), old...), 0o600))
	after, err := w.issuer.Reseal(cluster)
	w.must(err)
	w.must(os.WriteFile(string(w.issuer.KeyFile), []byte(fresh), 0o600)) // the old one is taken away
	keys, err := w.issuer.KeyFile.Read()
	w.must(err)
	if secret, err := keys.Open(after.GetGossipKeys()[0].GetSealed(), GossipKeyAbout); err != nil || string(secret) != "gossip" || !after.GetGossipKeys()[0].GetPrimary() {
		t.Errorf("%q, %v, %v", secret, err, after.GetGossipKeys())
	}
	if _, err := w.issuer.Reseal(cluster); err == nil {
		t.Error("encrypted anew without the old key")
	}
	alone, err := w.issuer.Rotate(cluster, true, w.now)
	w.must(err)
	if len(alone.GetGossipKeys()) != 0 {
		t.Errorf("keys that nobody can open are kept: %v", alone.GetGossipKeys())
	}
}
