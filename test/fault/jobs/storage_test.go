package jobs

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage/storagetest"
	"github.com/drover-fleet/drover/test/machine"
)

var full = flag.Bool("full", false, "inject faults as long as before a release")

// newStoreLab has its input and output in object storage, with faults between.
func newStoreLab(t *testing.T) (*lab, *storagetest.Faults) {
	t.Helper()
	const bucket = "data"
	server := storagetest.Start(t, bucket)
	faults := storagetest.Faulty(t, server)
	l := &lab{t: t, shared: filepath.Join(server.Dir, bucket), base: "s3://" + bucket}
	l.start(machine.Options{SchedulerConfig: map[string]any{"stores": map[string]any{
		"s3": map[string]any{"endpoint": faults.Store.Endpoint, "path_style": true, "insecure": true}}}})
	_, err := l.Client.StorageKeys.SetStorageKey(t.Context(), &fleetv1.SetStorageKeyRequest{Scheme: "s3", AccessKey: faults.Store.AccessKey, SecretKey: faults.Store.SecretKey})
	l.must(err)
	return l, faults
}

func TestStorageFails(t *testing.T) {
	t.Parallel()
	l, faults := newStoreLab(t)
	const items, gone = 600, 599
	l.items(items, every("sleep:50ms"))
	faults.Add(storagetest.Fault{Match: storagetest.Key(name(gone)), Status: http.StatusNotFound})
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	done := int64(0)
	moves := func() {
		t.Helper()
		done = l.until("job", "more items are done", 2*limit, func(j *fleetv1.GetJobResponse) bool {
			return j.GetProgress().GetSuccessful() > done || j.GetJob().GetStatus().GetState() == fleetv1.JobCompleted
		}).GetProgress().GetSuccessful()
	}
	moves()
	away := 10 * time.Second
	if *full {
		away = time.Minute
	}
	faults.Down()
	time.Sleep(away) // the fault itself
	faults.Up(t)
	moves()
	for what, fault := range map[string]storagetest.Fault{
		"500":       {Status: http.StatusInternalServerError, Times: 40},
		"503":       {Status: http.StatusServiceUnavailable, Times: 40},
		"403":       {Status: http.StatusForbidden, Times: 20},
		"slow":      {Delay: 2 * time.Second, Times: 6},
		"resets":    {Reset: true, Times: 20},
		"truncated": {Truncate: 5, Match: storagetest.Method(http.MethodGet), Times: 10},
	} {
		t.Log(what)
		faults.Add(fault)
		moves()
	}
	l.ends("job", fleetv1.JobCompleted, 3*limit)
	l.check("job", items, func(i int) string {
		if i == gone {
			return "found"
		}
		return ""
	})
	l.noPacks("job")
}

func TestOutputIsFull(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 120
	l.items(items, every("sleep:10ms"))
	dir := filepath.Join(l.shared, "out-job")
	l.must(os.MkdirAll(dir, 0o755))
	l.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=200k"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l.submit("job", nil)
	l.until("job", "it says that the output is full", 2*limit, func(j *fleetv1.GetJobResponse) bool {
		for _, task := range j.GetTasks() {
			if task.GetProgress().GetTrouble() != "" {
				return true
			}
		}
		return false
	})
	l.must(unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=16m"))
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
}

// What was listed is changed or deleted before it is read.
func TestInputChanges(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items, changed, deleted = 20, 3, 5
	l.items(items, every(""))
	cordon := func(on bool) {
		t.Helper()
		_, err := l.Client.Nodes.SetNodeCordon(t.Context(), &fleetv1.SetNodeCordonRequest{Name: l.Node, Cordoned: on})
		l.must(err)
	}
	cordon(true)
	l.submit("job", nil)
	l.until("job", "the input is listed", limit, func(j *fleetv1.GetJobResponse) bool { return j.GetProgress().GetListed() })
	in := filepath.Join(l.shared, "in")
	l.must(os.WriteFile(filepath.Join(in, name(changed)), []byte(`{"id": -1, "do": "", "longer": "than before"}`), 0o600))
	l.must(os.Remove(filepath.Join(in, name(deleted))))
	l.must(os.WriteFile(filepath.Join(in, "item-00003.late.json"), []byte(`{}`), 0o600))
	cordon(false)
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, func(i int) string {
		switch i {
		case changed:
			return "changed"
		case deleted:
			return "found"
		}
		return ""
	})
}

func TestModelMisbehaves(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	words := []struct{ do, failed string }{
		{"", ""}, {"garbage", "JSON"}, {"nothing", "EOF"}, {"hang", "no answer within 2s"}, {fmt.Sprintf("big:%d", 200<<20), "bytes"},
		{"400", "400"}, {"422", "422"}, {"500", "500"}, {"204", ""},
		{"once:/tmp/a 503", ""}, {"once:/tmp/b nothing", ""}, {"once:/tmp/c exit", ""},
	}
	words[8].failed = "JSON" // an answer without a body is none
	const each = 3
	l.items(each*len(words), func(i int) string { return words[i%len(words)].do })
	l.submit("job", func(s *fleetv1.JobSpec) { s.ItemTimeoutSeconds, s.Strict = 2, true })
	l.ends("job", fleetv1.JobCompleted, 3*limit)
	l.check("job", each*len(words), func(i int) string { return words[i%len(words)].failed })
}
