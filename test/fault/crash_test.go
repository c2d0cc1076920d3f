package fault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/scheduler/backup"
	"github.com/drover-fleet/drover/test/machine"
)

// killsAt are system calls at whose entry the process is killed. Schedulers that serve fsync and rename little but snapshots:
// what goes to the log is synced by fdatasync.
var killsAt = map[string]string{"half written": "fsync", "not yet in its place": "/^rename"}

// A scheduler is killed while it writes a snapshot: it starts, and has the state that the others have.
func TestKilledWhileWritingASnapshot(t *testing.T) {
	t.Parallel()
	s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{Config: soonSnapshots(4096)})
	l := startLoad(t, s.Clients(), 6)
	for when, call := range killsAt {
		l.resumes(limit)
		p := s.Others(s.Leader())[0]
		killAt(t, p.Pid(), call)
		if code := p.Wait(limit); code != -1 {
			t.Fatalf("%s: the scheduler ended with code %d, want killed", when, code)
		}
		if err := unfinished(p); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		p.Start()
	}
	s.WaitVoters(3)
	l.finish(s.Leader().Client)
	agree(t, s)
}

// A scheduler that is far behind is killed while it installs the leader's snapshot: it starts, and gets the state that the others
// have.
func TestKilledWhileInstallingASnapshot(t *testing.T) {
	t.Parallel()
	nth := map[string]int{"fsync": 2, "/^rename": 1} // a start syncs the log's next file, before that most of the time
	var killing atomic.Pointer[string]
	s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{
		Config: soonSnapshots(20),
		Command: func(_ int, argv []string) []string {
			if call := killing.Swap(nil); call != nil {
				return append(append([]string{"strace"}, injection(*call, nth[*call])...), argv...)
			}
			return argv
		},
	})
	l := startLoad(t, s.Clients(), 6)
	for when, call := range killsAt {
		l.resumes(limit)
		p := s.Others(s.Leader())[0]
		p.Kill()
		old := newest(t, p)
		for have := l.acks.Load(); l.acks.Load() < have+200; {
			l.resumes(limit)
		}
		s.Within(limit, "the leader has a snapshot of what is missed", func() error {
			if newest(t, s.Leader()) == old {
				return errors.New("there is none")
			}
			return nil
		})
		s.Within(limit, when+": a snapshot is left unfinished", func() error {
			call := call
			killing.Store(&call)
			p.Launch()
			if code := p.Wait(limit); code != -1 {
				t.Fatalf("%s: the scheduler ended with code %d, want killed", when, code)
			}
			return unfinished(p)
		})
		p.Start()
	}
	s.WaitVoters(3)
	l.finish(s.Leader().Client)
	agree(t, s)
}

// injection are strace's arguments: it kills at the nth such call.
func injection(call string, nth int) []string {
	return []string{"-f", "-q", "-o", os.DevNull, "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth)}
}

// killAt has strace kill a running process when it is about to do a system call.
func killAt(t *testing.T, pid int, call string) {
	t.Helper()
	cmd := exec.Command("strace", append(injection(call, 1), "-p", strconv.Itoa(pid))...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("strace: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // when the process has ended, strace has, too
		_ = cmd.Wait()
	})
}

// unfinished says whether a snapshot was left so.
func unfinished(p *machine.SchedulerProcess) error {
	left, err := filepath.Glob(filepath.Join(p.Dir(), "raft", "snapshots", "*.tmp"))
	if err == nil && len(left) != 1 {
		err = fmt.Errorf("unfinished snapshots: %v, want one", left)
	}
	return err
}

// newest is the name of the scheduler's last snapshot.
func newest(t *testing.T, p *machine.SchedulerProcess) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(p.Dir(), "raft", "snapshots", "*[0-9]"))
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, path := range all {
		last = max(last, filepath.Base(path))
	}
	return last
}

// agree has every scheduler lead and write a backup until they did so at one index. Equal states give equal bytes of the snapshot
// in it.
func agree(t *testing.T, s *machine.Schedulers) {
	t.Helper()
	s.Within(limit, "every scheduler has written its state at one index", func() error {
		states, indexes := map[string][]byte{}, map[uint64]bool{}
		for _, p := range s.All {
			index, state, err := stateOf(t, s, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			states[p.Name], indexes[index] = state, true
		}
		if len(indexes) != 1 {
			return fmt.Errorf("at indexes %v", indexes)
		}
		for _, p := range s.All[1:] {
			if !bytes.Equal(states[p.Name], states[s.All[0].Name]) {
				t.Errorf("the state of %s is not that of %s", p.Name, s.All[0].Name)
			}
		}
		return nil
	})
}

func stateOf(t *testing.T, s *machine.Schedulers, p *machine.SchedulerProcess) (index uint64, state []byte, err error) {
	t.Helper()
	if s.Leader() != p {
		if out, errs, code := p.Drover("cluster", "transfer-leader", p.Name); code != 0 {
			return 0, nil, fmt.Errorf("transfer-leader: %s%s", out, errs)
		}
	}
	path := filepath.Join(t.TempDir(), p.Name+time.Now().Format("150405.000")+".backup")
	if out, errs, code := p.Drover("cluster", "backup", path); code != 0 {
		return 0, nil, fmt.Errorf("backup: %s%s", out, errs)
	}
	if s.Leader() != p {
		return 0, nil, errors.New("it doesn't lead any more")
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	r, err := backup.Read(f)
	if err != nil {
		return 0, nil, err
	}
	state, err = io.ReadAll(r)
	return r.Header.GetIndex(), state, err
}
