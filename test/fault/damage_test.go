package fault

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// soonSnapshots is the configuration of schedulers that write a snapshot about every second under a load, and keep so many
// entries of the log for those that are behind.
func soonSnapshots(trailing int) map[string]any {
	return map[string]any{"snapshot_interval": "500ms", "snapshot_entries": 50, "trailing_entries": trailing}
}

// flipped has one bit changed in the middle of what is used.
func flipped(b []byte) []byte {
	bad := bytes.Clone(b)
	at := lastUsed(b) / 2
	for bad[at] == 0 { // zeros may be padding, which nothing reads
		at++
	}
	bad[at] ^= 0x10
	return bad
}

// lastUsed is where the last byte is that isn't zero.
func lastUsed(b []byte) int { return len(bytes.TrimRight(b, "\x00")) - 1 }

// refuses truncates a file, or flips a bit of it, and has the daemon start: it ends with 1, and one line names the file and
// what to do. The file is good afterwards.
func refuses(t *testing.T, file, named, todo string, flip func([]byte) []byte, start func() *machine.Process) {
	t.Helper()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for how, bad := range map[string][]byte{"truncated": good[:lastUsed(good)/2], "with a flipped bit": flip(good)} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p := start()
		said := ""
		if code := p.Wait(limit); code != 1 {
			t.Errorf("%s %s: the daemon ended with code %d, want 1", file, how, code)
		}
		for line := range strings.Lines(p.Log()) {
			said = line // the last one
		}
		if !strings.Contains(said, named) || !strings.Contains(said, todo) {
			t.Errorf("%s %s: the daemon says %q; want %q and %q", file, how, said, named, todo)
		}
		if left, err := os.ReadFile(file); err != nil || !bytes.Equal(left, bad) {
			t.Errorf("%s %s: the daemon changed it (%v)", file, how, err)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
}

// awaitSnapshot waits until a scheduler has written one.
func awaitSnapshot(s *machine.Schedulers, p *machine.SchedulerProcess) {
	s.Within(limit, p.Name+" has a snapshot", func() error {
		found, err := filepath.Glob(filepath.Join(p.Dir(), "raft", "snapshots", "*[0-9]", "state.bin"))
		if err == nil && len(found) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
}

// A scheduler whose log or snapshot is damaged refuses to start, the others go on, and what it says helps: it joins anew.
func TestDamagedSchedulerIsRefused(t *testing.T) {
	t.Parallel()
	s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{Config: soonSnapshots(4096)})
	l := startLoad(t, s.Clients(), 6)
	damaged := s.All[1]
	awaitSnapshot(s, damaged)
	damaged.Kill()
	l.resumes(limit)
	start := func() *machine.Process {
		damaged.Launch()
		return damaged.Process
	}
	raft, remedy := filepath.Join(damaged.Dir(), "raft"), "remove this scheduler from the cluster and let it join with an empty data directory"
	for _, pattern := range []string{"*.segment", "head", "state.bin", "meta.json"} {
		file := find(t, raft, pattern)
		named := file
		if strings.Contains(file, "snapshots") { // a snapshot is a directory
			named = filepath.Dir(file)
		}
		refuses(t, file, named, remedy, flipped, start)
	}
	l.resumes(healed)
	if out, errs, code := s.All[0].Drover("cluster", "remove", damaged.Name); code != 0 {
		t.Fatalf("remove the damaged scheduler: code %d: %s%s", code, out, errs)
	}
	damaged.Rejoin()
	s.WaitVoters(3)
	l.resumes(healed)
	l.finish(damaged.Client)
}

// What a crash has left behind the last append of the log, which nobody was told of, is dropped.
func TestTornTailIsDropped(t *testing.T) {
	t.Parallel()
	s := machine.StartSchedulers(t, 1, machine.SchedulersOptions{})
	l := startLoad(t, s.Clients(), 6)
	for range 3 {
		l.resumes(limit)
		s.All[0].Kill()
		segment := find(t, filepath.Join(s.All[0].Dir(), "raft"), "*.segment")
		log, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		tail := log[(lastUsed(log)/512+1)*512:]
		_, _ = rand.Read(tail[:1000]) // never fails
		if err := os.WriteFile(segment, log, 0o600); err != nil {
			t.Fatal(err)
		}
		s.All[0].Start()
	}
	l.resumes(healed)
	l.finish(s.All[0].Client)
}

// An agent whose journal is damaged refuses to start and stops nothing. What it says helps: with an empty data directory it takes
// its instances from the scheduler again.
func TestDamagedJournalIsRefused(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{})
	instances := m.DeployRunning(machine.Deployment{Name: "svc"})
	before := identities(t, instances)
	m.Agent.Kill()
	journal := filepath.Join(m.AgentDir(), "journal.db")
	flip := func(good []byte) []byte { // in the record of the instance, and in former ones, whose pages may not be used any more
		id := []byte(instances[0].GetMeta().GetId())
		bad := bytes.Clone(id)
		bad[len(bad)-1] ^= 1
		return bytes.ReplaceAll(good, id, bad)
	}
	refuses(t, journal, journal, "move the whole data directory away", flip, func() *machine.Process { return m.Second("agent") })
	if err := identitiesNow(t, before); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	aside := t.TempDir()
	entries, err := os.ReadDir(m.AgentDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "containerd" { // the test's containerd has its own there
			continue
		}
		if err := os.Rename(filepath.Join(m.AgentDir(), e.Name()), filepath.Join(aside, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // network namespaces of the old containers are mounted there
		held, err := filepath.Glob(filepath.Join(aside, "runtime", "netns", "*"))
		for _, at := range held {
			err = errors.Join(err, unix.Unmount(at, unix.MNT_DETACH))
		}
		if err != nil {
			t.Error(err)
		}
	})
	m.Rejoin()
	m.WaitEndpoints(limit, "svc", 1)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	m.Within(limit, "only the new container is there", func() error {
		if list := m.Containers(); len(list) != 1 || identitiesNow(t, before) == nil {
			return fmt.Errorf("there are %v", list)
		}
		return nil
	})
}
