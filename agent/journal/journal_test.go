package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent/journal"
	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func record(id string) journal.Record {
	return journal.Record{
		Instance: &fleetv1.Instance{
			Meta:     &fleetv1.Meta{Id: id, Name: "iris-" + id},
			Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 2},
		},
		SequenceLimit: 7,
		Events:        []*fleetv1.ReportedEvent{{Sequence: 3, Reason: "InstanceHealthy", Message: strings.Repeat("m", 100)}},
	}
}

func open(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func filled(t *testing.T, dir string, n int) {
	t.Helper()
	j := open(t, dir)
	var all []journal.Record
	for i := range n {
		all = append(all, record(fmt.Sprintf("id-%03d", i)))
	}
	if err := j.Save(&journal.Header{ClusterID: "c", RestoreEpoch: 1, Generation: 42}, all...); err != nil {
		t.Fatal(err)
	}
	if err := j.Save(nil, all[0]); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 3)
	j := open(t, dir)
	if h := j.Header(); h.ClusterID != "c" || h.RestoreEpoch != 1 || h.Generation != 42 {
		t.Errorf("header %+v", h)
	}
	got := j.Records()
	if len(got) != 3 || got["id-001"].SequenceLimit != 7 || !proto.Equal(got["id-001"].Instance, record("id-001").Instance) ||
		!proto.Equal(got["id-001"].Events[0], record("id-001").Events[0]) {
		t.Errorf("records %+v", got)
	}
	if err := j.Forget("id-001"); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).Records(); len(got) != 2 || got["id-001"].Instance != nil {
		t.Errorf("records after forgetting one: %+v", got)
	}
}

func TestQuarantineIsKept(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	if err := j.SetQuarantined(map[string]devices.Quarantine{"a": {Reason: "process 7", LimitBytes: 1 << 30}, "b": {Reason: "memory"}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Save(&journal.Header{ClusterID: "c"}, record("id-1")), j.Close()); err != nil { // keeps what it doesn't name
		t.Fatal(err)
	}
	j = open(t, dir)
	if got := j.Quarantined(); len(got) != 2 || got["a"].Reason != "process 7" || got["a"].LimitBytes != 1<<30 || j.Header().ClusterID != "c" {
		t.Errorf("%v, %+v", got, j.Header())
	}
	if err := errors.Join(j.SetQuarantined(nil), j.Close()); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	if got := j.Quarantined(); len(got) != 0 || len(j.Records()) != 1 {
		t.Errorf("%v, %d records", got, len(j.Records()))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.SetQuarantined(nil); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestWritersShareTransactions(t *testing.T) {
	j := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if err := j.Save(nil, record(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := j.Writes(); n > 65 || len(j.Records()) != 64 {
		t.Errorf("%d writes for %d records", n, len(j.Records()))
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := journal.Open(dir)
	want := fmt.Sprintf("data directory %s is in use by process %d (another agent?)", dir, os.Getpid())
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %s", err, want)
	}
}

func TestMissingFileIsNotAnEmptyJournal(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	if err := os.Remove(filepath.Join(dir, "journal.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(dir); !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), "journal.db") {
		t.Fatalf("error %v, want ErrCorrupt that names the file", err)
	}
}

func TestTruncated(t *testing.T) {
	for _, size := range []int64{0, 1, 4096, 8192, 12288} {
		dir := t.TempDir()
		filled(t, dir, 200)
		if err := os.Truncate(filepath.Join(dir, "journal.db"), size); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Open(dir); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("cut to %d bytes: error %v, want ErrCorrupt", size, err)
		}
	}
}

// TestFlippedBytes damages the file at many places: either the damage is found, or everything is read as
// it was written.
func TestFlippedBytes(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 40)
	whole, err := os.ReadFile(filepath.Join(dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	var places []int
	for page := 0; page < len(whole); page += 4096 {
		for _, at := range []int{0, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 100, 200, 500, 1000, 2000, 3000, 4000} {
			if page+at < len(whole) {
				places = append(places, page+at)
			}
		}
	}
	for _, at := range places {
		if damaged(t, whole, at) {
			found++
		}
	}
	if found < 20 {
		t.Errorf("only %d of %d flips were found: does the test reach the data?", found, len(places))
	}
}

func damaged(t *testing.T, whole []byte, at int) bool {
	t.Helper()
	dir := t.TempDir()
	bad := append([]byte(nil), whole...)
	bad[at] ^= 0x41
	for name, content := range map[string][]byte{"journal.db": bad, "journal.marker": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.Open(dir)
	if err != nil {
		if !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), filepath.Join(dir, "journal.db")) {
			t.Errorf("byte %d: error %v, want ErrCorrupt that names the file", at, err)
		}
		return true
	}
	defer j.Close()
	got := j.Records()
	if len(got) != 40 || j.Header().Generation != 42 {
		t.Errorf("byte %d: %d records, header %+v, and no error", at, len(got), j.Header())
	}
	for id, r := range got {
		if !proto.Equal(r.Instance, record(id).Instance) {
			t.Errorf("byte %d: record %s differs and no error", at, id)
		}
	}
	return false
}

func TestClosed(t *testing.T) {
	j := open(t, t.TempDir())
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Save(nil, record("a")); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("save after close: %v", err)
	}
}
