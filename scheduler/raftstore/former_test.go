package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// writeFormer turns a closed log back into the file that it was once.
func writeFormer(t *testing.T, raftDir string) (path string) {
	t.Helper()
	c := testLog(t, raftDir)
	s := reopen(t, c)
	former := formerLog{ID: s.head.ID, First: s.log.First, Last: s.log.Last, Stable: map[string][]byte{}}
	for k, v := range s.head.Stable {
		former.Stable[k] = []byte(v)
		if n, err := s.GetUint64([]byte(k)); err == nil {
			former.Stable[k] = binary.BigEndian.AppendUint64(nil, n)
		}
	}
	path = filepath.Join(raftDir, fileFormerLog)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		logs, err := tx.CreateBucket([]byte(formerEntries))
		if err != nil {
			return err
		}
		heads, err := tx.CreateBucket([]byte(formerHead))
		if err != nil {
			return err
		}
		for i := former.First; i != 0 && i <= former.Last; i++ {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil {
				return err
			}
			_, payload, _ := readRecord(appendEntry(nil, &l, 0, 0), 0, 0)
			if err := logs.Put(binary.BigEndian.AppendUint64(nil, i), seal(payload)); err != nil {
				return err
			}
		}
		body, err := json.Marshal(former)
		if err != nil {
			return err
		}
		return heads.Put([]byte(formerHead), seal(body))
	})
	if err := errors.Join(err, db.Close(), s.Close(), os.RemoveAll(c.dir)); err != nil {
		t.Fatal(err)
	}
	return path
}

// A data directory whose log is one bbolt file is taken over once, with the term, the vote and all entries.
func TestFormerLogIsTakenOver(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, _ := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	for i := range 300 {
		propose(t, s, fmt.Sprint("f", i))
	}
	id, addr := s.ID(), s.Addr()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cfg.DataDir, "raft")
	want := kept{s.logs.head.ID, s.logs.head.Stable, s.logs.log.bounds}
	if want.stable[stableCandidate] != addr {
		t.Fatalf("no vote: %v", want.stable)
	}
	path := writeFormer(t, dir)
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkDamaged(t, cfg.DataDir, "", 0, want, 0)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former log is still there: %v", err)
	}
	// A crash came before it was removed: what was taken over counts.
	if err := os.WriteFile(path, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	again, st := mustOpen(t, cfg, nil)
	awaitLeader(t, again)
	if n := len(st.View().Flavors()); n != 300 || again.ID() != id {
		t.Errorf("%d of 300 writes, ID %s of %s", n, again.ID(), id)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	// A damaged one is refused by its name.
	bad := append([]byte(nil), saved...)
	bad[8] ^= 1
	for _, file := range [][]byte{bad, saved[:len(saved)/2]} {
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, dirLog)), os.WriteFile(path, file, 0o600)); err != nil {
			t.Fatal(err)
		}
		if !checkDamaged(t, cfg.DataDir, fileFormerLog, 8, want, 0) {
			t.Error("it was taken over")
		}
	}
	// A crash came while it was copied.
	next := filepath.Join(dir, dirLog+".new")
	if err := errors.Join(os.MkdirAll(next, 0o700), os.WriteFile(filepath.Join(next, fileHead), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	checkDamaged(t, cfg.DataDir, "", 0, want, 0)
}

func TestEmptyFormerLogIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	c := testLog(t, dir)
	id := uuid.NewString()
	if err := createLog(c, head{ID: id}, nil); err != nil {
		t.Fatal(err)
	}
	if err := takeOver(writeFormer(t, dir), c); err != nil {
		t.Fatal(err)
	}
	if s := reopen(t, c); s.head.ID != id || s.bounds() != (bounds{}) {
		t.Errorf("%+v, entries %v", s.head, s.bounds())
	}
}
