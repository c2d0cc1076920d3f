package state

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// TestRanges holds them against a set of numbers.
func TestRanges(t *testing.T) {
	const numbers = 40
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var ranges Ranges
		have := map[int64]bool{}
		for range 12 {
			from := r.Int64N(numbers)
			to := from + r.Int64N(8)
			overlaps, before := false, fmt.Sprint(ranges)
			for n := from; n < to; n++ {
				overlaps = overlaps || have[n]
			}
			if got := ranges.Overlaps(from, to); got != overlaps {
				t.Fatalf("%v overlaps %d–%d: %v", ranges, from, to, got)
			}
			next := ranges.With(from, to)
			if fmt.Sprint(ranges) != before {
				t.Fatalf("%s has become %v", before, ranges)
			}
			ranges = next
			for n := from; n < to; n++ {
				have[n] = true
			}
			checkRanges(t, ranges, have, numbers+8)
			from, before = r.Int64N(numbers), fmt.Sprint(ranges)
			to = from + r.Int64N(5)
			next = ranges.Without(from, to)
			if fmt.Sprint(ranges) != before {
				t.Fatalf("%s has become %v", before, ranges)
			}
			ranges = next
			for n := from; n < to; n++ {
				delete(have, n)
			}
			checkRanges(t, ranges, have, numbers+8)
		}
	}
}

func checkRanges(t *testing.T, ranges Ranges, have map[int64]bool, limit int64) {
	t.Helper()
	if ranges.Items() != int64(len(have)) {
		t.Fatalf("%v has %d items; want %d", ranges, ranges.Items(), len(have))
	}
	for i, one := range ranges {
		if one.GetFrom() >= one.GetTo() || i > 0 && one.GetFrom() <= ranges[i-1].GetTo() {
			t.Fatalf("%v are not apart", ranges)
		}
	}
	missing := map[int64]bool{}
	for at := int64(0); ; {
		from, to := ranges.Next(at, limit)
		if from == to {
			break
		}
		for n := from; n < to; n++ {
			missing[n] = true
		}
		at = to
	}
	for n := range limit {
		if missing[n] == have[n] {
			t.Fatalf("%v: number %d is both or neither", ranges, n)
		}
	}
}

func testJob(name string) *fleetv1.Job {
	return &fleetv1.Job{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name, Project: "default"},
		Spec:    &fleetv1.JobSpec{Pool: "batch", Model: "mj", ModelVersion: "1.0.0", Flavor: "fj"},
		Desired: &fleetv1.JobDesired{State: fleetv1.DesiredRunning, Run: 1}}
}

func testLedger(job string) *fleetv1.JobLedger {
	return &fleetv1.JobLedger{Meta: &fleetv1.Meta{Name: job, Id: "id-" + job, Project: "default"}}
}

func commitCommand(c *fleetv1.JobCommit) *fleetv1.Command {
	cmd := &fleetv1.Command{Time: at(1), Op: &fleetv1.Command_JobCommit{JobCommit: c}}
	cmd.Introduced = Introduced(cmd)
	return cmd
}

func testChunk(from, to int64, task string) *fleetv1.Chunk {
	return &fleetv1.Chunk{From: from, To: to, Task: task, Attempt: "x", Successful: to - from - 1, Failed: 1, InputBytes: 10, OutputBytes: 20}
}

// jobFixture has job j with 100 items listed.
func jobFixture(t *testing.T) *fixture {
	f := newFixture(t)
	f.must(writeCommand(1, Put(0, &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "batch"}}), Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "fj"}}),
		Put(0, &fleetv1.Model{Meta: &fleetv1.Meta{Name: "mj", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "1.0.0"}})))
	f.must(writeCommand(1, Put(0, testJob("j")), Put(0, testLedger("j"))))
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Position: "k60", Parts: []*fleetv1.InputPart{{From: 0, Items: 60, Object: "a"}}}))
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Listed: true, Parts: []*fleetv1.InputPart{{From: 60, Items: 40, Object: "b"}}}))
	return f
}

func TestJobIsListedOnce(t *testing.T) {
	f := jobFixture(t)
	l := f.View().JobLedger("id-j")
	if !l.GetListed() || l.GetItems() != 100 || len(l.GetParts()) != 2 || l.GetPosition() != "" {
		t.Fatalf("the ledger is %v", l)
	}
	f.refused(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Parts: []*fleetv1.InputPart{{From: 100, Items: 1, Object: "c"}}}), RejectRevision, "is listed")
	f.refused(commitCommand(&fleetv1.JobCommit{JobId: "id-none", Listed: true}), RejectNotFound, "job id-none does not exist")
	f.must(writeCommand(1, Put(0, testJob("k")), Put(0, testLedger("k"))))
	f.refused(commitCommand(&fleetv1.JobCommit{JobId: "id-k", Position: "k", Parts: []*fleetv1.InputPart{{From: 5, Items: 1, Object: "a"}}}), RejectRevision, "begins at item 5")
	f.refused(commitCommand(&fleetv1.JobCommit{JobId: "id-k", Position: "k", Parts: []*fleetv1.InputPart{{Items: 1}}}), RejectInvalid, "neither items nor a name")
	if l := f.View().JobLedger("id-k"); l.GetPosition() != "" || l.GetItems() != 0 {
		t.Errorf("what was refused has left %v", l)
	}
}

// TestItemsAreCommittedOnce is the fence between two tasks that have the same items.
func TestItemsAreCommittedOnce(t *testing.T) {
	f := jobFixture(t)
	result, events := f.apply(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{
		testChunk(0, 10, "t0"), testChunk(5, 15, "t1"), testChunk(10, 20, "t1"), testChunk(95, 101, "t0"),
		{From: 30, To: 40, Task: "t0", Attempt: "x", Successful: 9}, {From: 30, To: 40, Task: "t0", Successful: 10},
	}, Events: []*fleetv1.Event{{Reason: "JobRuns"}}}))
	want := []Rejection{{Part: 1, Reason: RejectExists}, {Part: 3, Reason: RejectInvalid}, {Part: 4, Reason: RejectInvalid}, {Part: 5, Reason: RejectInvalid}}
	for i := range result.Rejections {
		result.Rejections[i].Detail = ""
	}
	if fmt.Sprint(result.Rejections) != fmt.Sprint(want) || len(events) != 1 {
		t.Errorf("rejections %v, events %v", result.Rejections, events)
	}
	l := f.View().JobLedger("id-j")
	if l.GetSuccessful() != 18 || l.GetFailed() != 2 || l.GetInputBytes() != 20 || l.GetOutputBytes() != 40 || len(l.GetCommitted()) != 1 || l.GetCommitted()[0].GetTo() != 20 {
		t.Errorf("the ledger is %v", l)
	}
	before := f.View().Index()
	f.refused(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{testChunk(0, 10, "t0")}, Events: []*fleetv1.Event{{Reason: "JobRuns"}}}), RejectExists, "are committed")
	if got := f.View().JobLedger("id-j"); got.GetMeta().GetRevision() > before {
		t.Errorf("a refused commit has changed the ledger")
	}
}

func TestManifests(t *testing.T) {
	f := jobFixture(t)
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{testChunk(0, 10, "t0"), testChunk(10, 20, "t1"), testChunk(20, 30, "t0")}}))
	before := f.View().JobLedger("id-j")
	saved := proto.CloneOf(before)
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Seal: []string{"t0", "t9"}, Chunks: []*fleetv1.Chunk{testChunk(30, 40, "t0")}}))
	l := f.View().JobLedger("id-j")
	if len(l.GetUnsealed()) != 1 || len(l.GetSealed()) != 1 || len(l.GetSealed()[0].GetChunks()) != 3 || l.GetSealed()[0].GetNumber() != 0 {
		t.Fatalf("the ledger is %v", l)
	}
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{testChunk(40, 50, "t0")}}))
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Seal: []string{"t0", "t1"}, Written: []*fleetv1.Manifest{{Task: "t0", Number: 0}, {Task: "t7"}}}))
	l = f.View().JobLedger("id-j")
	if len(l.GetUnsealed()) != 0 || len(l.GetSealed()) != 2 || l.GetSealed()[0].GetNumber() != 1 || l.GetSealed()[1].GetTask() != "t1" || l.GetTasks()[0].GetManifests() != 2 {
		t.Errorf("the ledger is %v", l)
	}
	if !proto.Equal(before, saved) {
		t.Errorf("a view's ledger has become %v", before)
	}
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Failure: "the output is gone"}))
	if got := f.View().JobLedger("id-j").GetFailure(); got != "the output is gone" {
		t.Errorf("failure %q", got)
	}
}

// TestLostResults: a commit is taken back as long as no manifest that stands has it, and everything that it has changed with it.
func TestLostResults(t *testing.T) {
	f := jobFixture(t)
	chunk := func(from, to int64, task, attempt string) *fleetv1.Chunk {
		c := testChunk(from, to, task)
		c.Attempt = attempt
		return c
	}
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{chunk(0, 10, "t0", "a"), chunk(10, 20, "t0", "b"), chunk(20, 30, "t1", "c"), chunk(30, 40, "t2", "d")}, Seal: []string{"t0", "t1"}}))
	before := f.View().JobLedger("id-j")
	saved := proto.CloneOf(before)
	_, events := f.apply(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Lost: []string{"b", "c", "d", "b", "none"}, Events: []*fleetv1.Event{{Reason: "JobResultsLost"}}}))
	l := f.View().JobLedger("id-j")
	if fmt.Sprint(l.GetCommitted()) != fmt.Sprint([]*fleetv1.ItemRange{{To: 10}}) || l.GetSuccessful() != 9 || l.GetFailed() != 1 || l.GetInputBytes() != 10 || l.GetOutputBytes() != 20 || len(l.GetUnsealed()) != 0 || len(events) != 1 {
		t.Errorf("the ledger is %v, events %v", l, events)
	}
	want := []*fleetv1.Manifest{{Task: "t0", Version: 1, Chunks: []*fleetv1.Chunk{chunk(0, 10, "t0", "a")}}, {Task: "t1", Version: 1}}
	if fmt.Sprint(l.GetSealed()) != fmt.Sprint(want) || len(l.GetTasks()) != 2 {
		t.Errorf("the manifests are %v, want %v; %v", l.GetSealed(), want, l.GetTasks())
	}
	if !proto.Equal(before, saved) {
		t.Errorf("a view's ledger has become %v", before)
	}
	// Who wrote the manifest with what was lost has to write it again.
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Written: []*fleetv1.Manifest{{Task: "t0"}, {Task: "t1", Version: 1}}}))
	if l := f.View().JobLedger("id-j"); len(l.GetSealed()) != 1 || l.GetSealed()[0].GetTask() != "t0" {
		t.Errorf("the ledger is %v", l)
	}
	// What stands is lost no more, also when both are told at once. Other items may take the place of the lost ones.
	_, events = f.apply(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{chunk(10, 40, "t1", "e")}, Written: []*fleetv1.Manifest{{Task: "t0", Version: 1}}, Lost: []string{"a"}, Seal: []string{"t1"}}))
	if l := f.View().JobLedger("id-j"); len(events) != 0 || Ranges(l.GetCommitted()).Items() != 40 || len(l.GetSealed()) != 1 || l.GetSealed()[0].GetNumber() != 1 {
		t.Errorf("the ledger is %v", l)
	}
	index := f.View().Index()
	if f.apply(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Lost: []string{"a"}, Events: []*fleetv1.Event{{Reason: "JobResultsLost"}}})); f.View().JobLedger("id-j").GetMeta().GetRevision() > index {
		t.Error("the loss of what nobody needs has changed the ledger")
	}
}

func TestItemsAreRunAgain(t *testing.T) {
	f := jobFixture(t)
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{{From: 0, To: 100, Task: "t0", Attempt: "x", Successful: 97, Failed: 3}}}))
	l := proto.CloneOf(f.View().JobLedger("id-j"))
	l.Listed = false
	f.must(writeCommand(1, Put(l.GetMeta().GetRevision(), l)))
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Listed: true, Parts: []*fleetv1.InputPart{{From: 100, Items: 3, Object: "c", Again: true}}}))
	f.must(commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{{From: 100, To: 103, Task: "t0", Attempt: "y", Successful: 2, Failed: 1}}}))
	l = f.View().JobLedger("id-j")
	if l.GetItems()-l.GetAgain() != 100 || l.GetSuccessful() != 99 || l.GetFailed() != 1 {
		t.Errorf("the ledger is %v", l)
	}
}

func TestJobsInTheStore(t *testing.T) {
	f := jobFixture(t)
	v := f.View()
	if v.Job("default", "j") == nil || v.Job("default", "id-j") == nil || v.Job("other", "id-j") != nil || len(v.Jobs("default")) != 1 || len(v.Jobs("oth")) != 0 {
		t.Errorf("job j isn't found as it should be")
	}
	bad := testJob("bad")
	bad.Spec.Flavor = "none"
	f.refused(writeCommand(1, Put(0, bad)), RejectNotFound, "job default/bad needs flavor none")
	for _, key := range []Key{{fleetv1.KindPool, "batch"}, {fleetv1.KindFlavor, "fj"}, ModelKey("default", "mj", "1.0.0")} {
		revision := metaOf(f.current.Load().object(key)).GetRevision()
		f.refused(writeCommand(1, Delete(revision, key)), RejectInUse, "job default/j uses it")
	}
	f.must(writeCommand(1, Put(0, &fleetv1.StorageKey{Meta: &fleetv1.Meta{Name: "s3", Project: "default"}, AccessKey: "AK"})))
	if f.View().StorageKey("default", "s3").GetAccessKey() != "AK" || len(f.View().StorageKeys("")) != 1 {
		t.Error("the storage key isn't found")
	}
	svc := testService("job.j")
	svc.Meta.CreatedBy, svc.Spec.JobId = "joe", "id-j"
	if got := Introduced(writeCommand(1, Put(0, svc))); got != 5 {
		t.Errorf("the service of a job came with %d", got)
	}
	if used := UserOfProject(f.View(), "default"); !strings.Contains(used, "is in it") {
		t.Errorf("the project is used by %q", used)
	}
}
