package backup

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// stateOf is a small store of a cluster.
func stateOf(t testing.TB, cluster *fleetv1.Cluster, flavors int) *state.Store {
	t.Helper()
	st := state.New()
	write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, cluster),
		state.Put(0, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "admin"}, Role: fleetv1.RoleAdmin, SecretSha256: []byte("old")})}}
	for i := range flavors {
		write.Mutations = append(write.Mutations, state.Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f" + hex.EncodeToString([]byte{byte(i >> 8), byte(i)})}}))
	}
	if r, _ := st.Apply(7, &fleetv1.Command{Time: timestamppb.Now(), Introduced: 1, RequestId: "r", Op: &fleetv1.Command_Write{Write: write}}); len(r.Rejections) > 0 {
		t.Fatal(r.Rejections)
	}
	return st
}

func fileOf(t testing.TB, st *state.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	c := st.View().Cluster()
	err := Write(&b, &fleetv1.BackupHeader{ClusterId: c.GetMeta().GetId(), RestoreEpoch: c.GetRestoreEpoch(), Index: st.View().Index(), Term: 3, Version: "v"}, st.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func cluster() *fleetv1.Cluster {
	return &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}, RestoreEpoch: 5, RemovalsConfirmed: 5}
}

func snapshotOf(t testing.TB, st *state.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := st.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	st := stateOf(t, cluster(), 60_000) // more than one piece
	file := fileOf(t, st)
	if len(file) < 3*pieceSize {
		t.Fatalf("the file has %d bytes", len(file))
	}
	back, header, err := Load(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if header.GetClusterId() != "c1" || header.GetIndex() != 7 || header.GetTerm() != 3 || header.GetVersion() != "v" {
		t.Errorf("header %v", header)
	}
	if !bytes.Equal(snapshotOf(t, st), snapshotOf(t, back)) || back.View().Request("", "r") == nil {
		t.Error("another state was read")
	}
}

// Any changed bit, any missing end and anything appended is found.
func TestDamageIsFound(t *testing.T) {
	file := fileOf(t, stateOf(t, cluster(), 3))
	for i := range file {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(file)
			bad[i] ^= bit
			if st, _, err := Load(bytes.NewReader(bad)); err == nil || st != nil {
				t.Fatalf("byte %d of %d changed: %v", i, len(file), err)
			}
		}
		if _, _, err := Load(bytes.NewReader(file[:i])); err == nil {
			t.Fatalf("cut off after %d of %d bytes", i, len(file))
		}
	}
	if _, _, err := Load(bytes.NewReader(append(bytes.Clone(file), 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a byte appended: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(fileOf(f, stateOf(f, cluster(), 2)))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, _, err := Load(bytes.NewReader(b))
		if (st == nil) != (err != nil) {
			t.Errorf("store %v, error %v", st, err)
		}
	})
}

func TestTheRestoredState(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	mine := &fleetv1.Token{Meta: &fleetv1.Meta{Name: "admin"}, Role: fleetv1.RoleAdmin, SecretSha256: []byte("new")}
	for name, c := range map[string]struct {
		epoch, current, want uint64
		now                  time.Time
	}{
		"by the clock":                {5, 0, 1_800_000_000_000, now},
		"a clock behind the backup's": {2_000_000_000_000, 0, 2_000_000_000_001, now},
		"a clock behind this cluster": {5, 1_900_000_000_000, 1_900_000_000_001, now},
	} {
		in := cluster()
		in.RestoreEpoch = c.epoch
		st := stateOf(t, in, 1)
		for range 2 { // the second time from a backup of what was restored
			here := stateOf(t, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c2"}, RestoreEpoch: c.current}, 0)
			epoch, err := Restored(st, here.View(), mine, c.now)
			if err != nil || epoch < c.want || st.View().Cluster().GetRestoreEpoch() != epoch || st.View().Cluster().GetMeta().GetId() != "c1" {
				t.Fatalf("%s: epoch %d, want %d; %v", name, epoch, c.want, err)
			}
			if !state.RemovalsHeld(st.View()) {
				t.Errorf("%s: removals aren't held", name)
			}
			c.want = epoch + 1
			mine.SecretSha256 = append(mine.SecretSha256, '+')
		}
		if n := len(st.View().Tokens()); n != 2 || TokenOf(st.View(), TokenName) == nil || st.View().TokenBySecret([]byte("old")) == nil {
			t.Errorf("%s: tokens %v", name, st.View().Tokens())
		}
	}
}
