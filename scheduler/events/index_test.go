package events

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"go.etcd.io/bbolt"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// The index answers what a search through all events does, for each event that has not been given up.
func TestIndexFindsWhatASearchFinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	x := newIndex()
	type known struct {
		key eventKey
		e   *fleetv1.Event
	}
	var all []known
	var first eventKey
	key := eventKey{index: 1}
	for step := range 20_000 {
		if key.n++; rng.IntN(3) == 0 {
			key = eventKey{index: key.index + 1 + rng.Uint64N(3)}
		}
		e := &fleetv1.Event{}
		for range rng.IntN(4) {
			o := ref("instance", strconv.Itoa(rng.IntN(200)), strconv.Itoa(rng.IntN(20)), "default")
			if rng.IntN(8) == 0 {
				o.Id = ""
			}
			e.Objects = append(e.Objects, o)
		}
		x.add(key, e)
		all = append(all, known{key, e})
		if step%1000 != 999 {
			continue
		}
		if at := len(all) - 1 - rng.IntN(3000); at > 0 && first.before(all[at].key) {
			first = all[at].key
		}
		x.trim(first)
		for name := range 200 {
			q := Query{Kind: "instance", Name: strconv.Itoa(name)}
			var want, got []eventKey
			for _, k := range slices.Backward(all) {
				if q.matches(k.e) && !k.key.before(first) {
					want = append(want, k.key)
				}
			}
			x.of(q.Kind, q.Name, func(k eventKey) bool {
				if !k.before(first) {
					got = append(got, k)
				}
				return true
			})
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: %s is in %v, by a search in %v", step, q.Name, got, want)
			}
		}
	}
	if x.base == 0 || len(x.entries) > 20_000 {
		t.Errorf("%d entries are kept, the first is number %d: nothing was given up", len(x.entries), x.base)
	}
	visited := 0
	x.of("instance", "0", func(eventKey) bool { visited++; return false })
	if visited != 1 {
		t.Errorf("%d events were visited after the visitor said no", visited)
	}
}

func TestOpenDropsTheIndexOfEarlierVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.db")
	s := mustOpen(t, path, testOptions())
	fill(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucketObjects))
		if err != nil {
			return err
		}
		return b.Put([]byte("service\x00web\x00"), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, testOptions())
	if got := listed(t, s, Query{Kind: "service", Name: "web"}); got != "3-1 3-2" {
		t.Errorf("got %q", got)
	}
	err = s.file.db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte(bucketObjects)) != nil {
			t.Error("the old index is still there")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// BenchmarkWrite is what an event of an instance costs the writer, in batches of a thousand.
func BenchmarkWrite(b *testing.B) {
	f, err := openFile(filepath.Join(b.TempDir(), "events.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.close()
	f.db.NoSync = true // the disk isn't measured
	rng := rand.New(rand.NewPCG(1, 1))
	batch := make([]entry, 1000)
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		for n := range batch {
			id := strconv.FormatUint(rng.Uint64(), 36) + strconv.FormatUint(rng.Uint64(), 36)
			node := strconv.Itoa(rng.IntN(10_000))
			batch[n] = entry{eventKey{i, uint32(n)}, event(i, n, "Normal", start, ref("instance", id, "web-"+id[:8], "default"),
				ref("service", "id-web", "web", "default"), ref("node", "id-of-node-"+node, "node-"+node, ""))}
		}
		if err := f.write(batch, 200_000); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/event")
}
