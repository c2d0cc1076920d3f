package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/drover-fleet/drover/scheduler/boltfile"
)

// fileFormerLog is where the log was before it had segments: a bbolt file with one bucket of entries, each sealed by its CRC32C,
// and a head.
const fileFormerLog = "raft.db"

const (
	formerEntries = "log"
	formerHead    = "head" // bucket and key
	formerBatch   = 256

	stableCandidate = "LastVoteCand" // Raft's other stable values are numbers
)

// formerLog is its head.
type formerLog struct {
	ID          string
	First, Last uint64 // 0 while it is empty
	Stable      map[string][]byte
}

// takeOver makes a log of a former one, once, and removes that.
func takeOver(path string, c logConfig) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) {
		if err := copyFormer(path, c); err != nil {
			return err
		}
		c.logger.Info("the Raft log was taken over from its former file", "from", path, "to", c.dir)
	} else if err != nil {
		return err
	} // else: a crash came before the next line
	return errors.Join(os.Remove(path), syncDir(filepath.Dir(path)))
}

func copyFormer(path string, c logConfig) error {
	if err := boltfile.Check(path); err != nil {
		return &CorruptError{File: path, Err: err}
	}
	err := boltfile.Guard(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
		if err != nil {
			return err
		}
		return errors.Join(db.View(func(tx *bbolt.Tx) error { return copyEntries(path, tx, c) }), db.Close())
	})
	var panicked *boltfile.PanicError
	if errors.As(err, &panicked) {
		return &CorruptError{File: path, Err: err}
	}
	return err
}

func copyEntries(path string, tx *bbolt.Tx, c logConfig) error {
	corrupt := func(err error) error { return &CorruptError{File: path, Err: err} }
	entries, heads := tx.Bucket([]byte(formerEntries)), tx.Bucket([]byte(formerHead))
	if entries == nil || heads == nil {
		return corrupt(errors.New("a table is missing"))
	}
	body, err := unseal(heads.Get([]byte(formerHead)))
	if err != nil {
		return corrupt(fmt.Errorf("its head: %w", err))
	}
	var former formerLog
	if err := json.Unmarshal(body, &former); err != nil {
		return corrupt(fmt.Errorf("its head: %w", err))
	}
	h := head{ID: former.ID, Stable: map[string]string{}}
	for k, v := range former.Stable {
		if h.Stable[k] = string(v); k != stableCandidate && len(v) == 8 {
			h.Stable[k] = fmt.Sprint(binary.BigEndian.Uint64(v))
		}
	}
	return createLog(c, h, func(s *logStore) error {
		want := former.First
		var batch []*raft.Log
		cursor := entries.Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			l := &raft.Log{}
			b, err := unseal(v)
			if err == nil {
				err = decodeEntry(append([]byte(nil), b...), l) // bbolt's memory is gone after the transaction
			}
			switch {
			case err != nil:
				return corrupt(fmt.Errorf("entry %x: %w", k, err))
			case len(k) != 8 || binary.BigEndian.Uint64(k) != l.Index || l.Index != want:
				return corrupt(fmt.Errorf("entry %d is where entry %d belongs", l.Index, want))
			}
			want++
			if batch = append(batch, l); len(batch) == formerBatch || l.Index == former.Last {
				if err := s.StoreLogs(batch); err != nil {
					return err
				}
				batch = nil
			}
		}
		if former.Last != 0 && want != former.Last+1 || former.Last == 0 && want != 0 {
			return corrupt(fmt.Errorf("entries %d to %d are missing", want, former.Last))
		}
		return nil
	})
}
