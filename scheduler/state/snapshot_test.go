package state

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestDamagedSnapshotsLeaveTheStore(t *testing.T) {
	source := New()
	replay(source, randomLog(3, 60), 0)
	good := snapshotOf(t, source)
	s := New()
	replay(s, randomLog(4, 30), 0)
	before := snapshotOf(t, s)
	try := func(what string, b []byte) {
		t.Helper()
		if err := s.Restore(bytes.NewReader(b)); err != nil {
			return
		}
		// Bits of the trailer's own numbers past their width mean nothing.
		if len(b) != len(good) || !bytes.Equal(good, snapshotOf(t, s)) {
			t.Fatalf("%s: restored", what)
		}
		if err := s.Restore(bytes.NewReader(before)); err != nil {
			t.Fatal(err)
		}
	}
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("byte %d changed", at), bad)
		try(fmt.Sprintf("cut at %d", at), good[:at])
	}
	try("a byte more", append(bytes.Clone(good), 0))
	if !errors.Is(s.Restore(bytes.NewReader(good[:len(good)/2])), ErrSnapshot) {
		t.Error("not said to be damage")
	}
	if !bytes.Equal(before, snapshotOf(t, s)) {
		t.Error("a failed restore changed the store")
	}
	feed := s.Subscribe()
	defer feed.Close()
	if _, _, err := feed.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(good, snapshotOf(t, s)) {
		t.Error("restored is not what was written")
	}
	if _, resync, err := feed.Next(t.Context()); !resync || err != nil {
		t.Errorf("after a restore: resync %v, %v", resync, err)
	}
}

func FuzzRestore(f *testing.F) {
	s := New()
	for i, c := range baseCommands() {
		s.Apply(uint64(i+1), c)
	}
	f.Add(snapshotOf(f, s))
	f.Add(snapshotOf(f, New()))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New()
		if err := s.Restore(bytes.NewReader(b)); err != nil {
			if s.View().Index() != 0 || s.View().Cluster() != nil {
				t.Error("a failed restore changed the store")
			}
			return
		}
		again := New()
		if err := again.Restore(bytes.NewReader(snapshotOf(t, s))); err != nil {
			t.Errorf("what was restored can't be written and read: %v", err)
		}
	})
}

// fleet is a store of 1,000 nodes with 8 instances each.
func fleet(b *testing.B) (*Store, uint64) {
	s := New()
	s.Apply(1, baseCommands()[0])
	index := uint64(1)
	for n := range 1000 {
		node := fmt.Sprintf("node-%04d", n)
		index++
		s.Apply(index, writeCommand(1, Put(0, testNode(node))))
		var instances []*fleetv1.Instance
		for i := range 7 {
			instances = append(instances, testInstance(fmt.Sprintf("%s-%d", node, i), "a", node))
		}
		index++
		if r, _ := s.Apply(index, planCommand("a", instances...)); len(r.Rejections) > 0 {
			b.Fatal(r.Rejections)
		}
	}
	return s, index
}

func BenchmarkApplyReport(b *testing.B) {
	s, index := fleet(b)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		index++
		node := fmt.Sprintf("node-%04d", seq%1000)
		s.Apply(index, reportCommand(node, &fleetv1.InstanceReport{
			InstanceId: node + "-3", Observed: &fleetv1.InstanceObserved{State: "Running", Sequence: seq, Attempt: 1, Ready: true},
		}))
	}
}

func BenchmarkView(b *testing.B) {
	s, _ := fleet(b)
	b.ReportAllocs()
	for b.Loop() {
		if v := s.View(); v.Instance("node-0500-3") == nil || v.Allocated("node-0500").Instances != 7 {
			b.Fatal("not found")
		}
	}
}

// Quotas count what a version of this program placed that didn't note the models of devices.
func TestRestoreNotesModels(t *testing.T) {
	f := newFixture(t)
	old := testInstance("i1", "a", "n1", f.View().Node("n1").GetFacts().GetDevices()[0].GetId())
	f.must(writeCommand(1, Put(0, old)))
	project := old.GetMeta().GetProject()
	model := f.View().Node("n1").GetFacts().GetDevices()[0].GetModel()
	if n := f.View().ProjectUsage(project).Devices[""]; n != 1 || model == "" {
		t.Fatalf("%d devices of no model, want 1; the node's is %q", n, model)
	}
	v := restored(t, f.Store).View()
	if used := v.ProjectUsage(project).Devices; len(used) != 1 || used[model] != 1 {
		t.Errorf("devices %v, want 1 %s", used, model)
	}
	if got := v.Instance("i1").GetSpec().GetDeviceModels(); len(got) != 1 || got[0] != model {
		t.Errorf("models %q", got)
	}
}

// A snapshot tells which program's commands it was made of, also after it was restored, and an older one refuses it.
func TestNewerSnapshotIsRefused(t *testing.T) {
	f := newFixture(t)
	cmd := writeCommand(1, Put(0, &fleetv1.JoinToken{Meta: &fleetv1.Meta{Name: "t", Id: "t"}}))
	cmd.Introduced = Introduced(cmd)
	f.must(cmd)
	var b bytes.Buffer
	for range 2 {
		b.Reset()
		if _, err := f.Snapshot().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if err := f.Restore(bytes.NewReader(b.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.view().t.introduced; got != 3 {
		t.Errorf("the restored store came with %d, want 3", got)
	}
	in := &recordReader{r: bufio.NewReader(bytes.NewReader(b.Bytes())), crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	header, err := in.next()
	if err != nil {
		t.Fatal(err)
	}
	header.GetHeader().Introduced = CommandVersion + 1
	var newer bytes.Buffer
	out := &recordWriter{w: &newer, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	out.write(header)
	for {
		rec, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if trailer := rec.GetTrailer(); trailer != nil {
			trailer.Crc32C = out.crc.Sum32()
			out.write(rec)
			break
		}
		out.write(rec)
	}
	if _, err := CheckSnapshot(&newer); !errors.Is(err, ErrNewer) || errors.Is(err, ErrSnapshot) {
		t.Errorf("a snapshot of a newer program: %v", err)
	}
}
