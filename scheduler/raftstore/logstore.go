package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/drover-fleet/drover/scheduler/boltfile"
)

// logStore keeps Raft's log and its stable values in one bbolt file. Every value carries its CRC32C.
// One record, rewritten in each transaction, says which entries there must be and holds all stable values,
// so that a value that vanished is found as well as one that changed.
type logStore struct {
	db    *bbolt.DB
	stall *stallWatch

	mu   sync.Mutex
	head head
}

// head is the record. First and Last are 0 while the log is empty.
type head struct {
	ID          string
	First, Last uint64
	Stable      map[string][]byte
}

const (
	bucketLog  = "log"
	bucketHead = "head"
	keyHead    = "head"
)

var errNotFound = errors.New("not found") // Raft compares this text

func openBolt(path string) (*bbolt.DB, error) {
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
}

// createLogStore makes an empty file at path for the scheduler id; it appears whole or not at all.
func createLogStore(path, id string) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBolt(next)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket([]byte(bucketLog)); err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte(bucketHead)); err != nil {
			return err
		}
		return putHead(tx, head{ID: id})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// openLogStore opens an existing file and reads all of it. Any damage is an error.
func openLogStore(path string, stall *stallWatch) (*logStore, error) {
	if err := boltfile.Check(path); err != nil {
		return nil, &CorruptError{File: path, Err: err}
	}
	s := &logStore{stall: stall}
	err := boltfile.Guard(func() (err error) {
		s.db, err = openBolt(path)
		return err
	})
	var panicked *boltfile.PanicError
	switch {
	case errors.As(err, &panicked):
		return nil, &CorruptError{File: path, Err: err}
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := boltfile.Guard(func() error { return s.db.View(s.verify) }); err != nil {
		return nil, errors.Join(&CorruptError{File: path, Err: err}, s.db.Close())
	}
	return s, nil
}

// verify reads the head and every entry.
func (s *logStore) verify(tx *bbolt.Tx) error {
	logs, heads := tx.Bucket([]byte(bucketLog)), tx.Bucket([]byte(bucketHead))
	if logs == nil || heads == nil {
		return errors.New("a table is missing")
	}
	body, err := unseal(heads.Get([]byte(keyHead)))
	if err != nil {
		return fmt.Errorf("its head: %w", err)
	}
	if err := json.Unmarshal(body, &s.head); err != nil {
		return fmt.Errorf("its head: %w", err)
	}
	want := s.head.First
	c := logs.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		var l raft.Log
		switch err := decodeLog(v, &l); {
		case err != nil:
			return fmt.Errorf("entry %x: %w", k, err)
		case len(k) != 8 || binary.BigEndian.Uint64(k) != l.Index || l.Index != want:
			return fmt.Errorf("entry %d is where entry %d belongs", l.Index, want)
		}
		if l.Type == raft.LogCommand {
			if _, err := decodeFrame(l.Data); err != nil {
				return fmt.Errorf("entry %d: %w", l.Index, err)
			}
		}
		want++
	}
	if s.head.Last != 0 && want != s.head.Last+1 || s.head.Last == 0 && want != 0 {
		return fmt.Errorf("entries %d to %d are missing", want, s.head.Last)
	}
	return nil
}

func seal(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), checksum(body)), body...)
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != checksum(b[4:]) {
		return nil, errors.New("its CRC32C is wrong")
	}
	return b[4:], nil
}

func putHead(tx *bbolt.Tx, h head) error {
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketHead)).Put([]byte(keyHead), seal(body))
}

// encodeLog is index, term, type, time of appending, length of the extensions, extensions, data.
func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, 29+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var appended int64
	if !l.AppendedAt.IsZero() {
		appended = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	return seal(append(append(b, l.Extensions...), l.Data...))
}

func decodeLog(v []byte, l *raft.Log) error {
	b, err := unseal(v)
	if err != nil {
		return err
	}
	if len(b) < 29 || uint64(len(b)-29) < uint64(binary.BigEndian.Uint32(b[25:])) {
		return errors.New("it is too short")
	}
	*l = raft.Log{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Type: raft.LogType(b[16])}
	if ns := int64(binary.BigEndian.Uint64(b[17:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	// bbolt's memory is gone after the transaction.
	rest := append([]byte(nil), b[29:]...)
	if n := binary.BigEndian.Uint32(b[25:]); n > 0 {
		l.Extensions, rest = rest[:n:n], rest[n:]
	}
	l.Data = rest
	return nil
}

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// update changes the head and, by do, the log in one durable transaction.
func (s *logStore) update(change func(*head), do func(*bbolt.Bucket) error) error {
	defer s.stall.begin()()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.head
	change(&next)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if do != nil {
			if err := do(tx.Bucket([]byte(bucketLog))); err != nil {
				return err
			}
		}
		return putHead(tx, next)
	})
	if err != nil {
		return fmt.Errorf("write the Raft log: %w", err)
	}
	s.head = next
	return nil
}

// IsMonotonic tells Raft that entries are without gaps: it clears the log when it installs a snapshot.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.First, nil
}

func (s *logStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.Last, nil
}

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(bucketLog)).Get(indexKey(index))
		if v == nil {
			return raft.ErrLogNotFound
		}
		if err := decodeLog(v, l); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		return nil
	})
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	first, last := logs[0].Index, logs[len(logs)-1].Index
	if have, _ := s.LastIndex(); have != 0 && first != have+1 {
		return fmt.Errorf("write the Raft log: entry %d doesn't follow entry %d", first, have)
	}
	return s.update(func(h *head) {
		if h.First == 0 {
			h.First = first
		}
		h.Last = last
	}, func(b *bbolt.Bucket) error {
		b.FillPercent = 0.9 // entries are only ever appended
		for _, l := range logs {
			if err := b.Put(indexKey(l.Index), encodeLog(l)); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange deletes from one end of the log; Raft asks for nothing else.
func (s *logStore) DeleteRange(low, high uint64) error {
	return s.update(func(h *head) {
		switch {
		case low <= h.First && high >= h.Last:
			h.First, h.Last = 0, 0
		case low <= h.First:
			h.First = max(h.First, high+1)
		default:
			h.Last = min(h.Last, low-1)
		}
	}, func(b *bbolt.Bucket) error {
		if low > s.head.First && high < s.head.Last {
			return fmt.Errorf("entries %d to %d are in the middle of the log", low, high)
		}
		c := b.Cursor()
		for k, _ := c.Seek(indexKey(low)); k != nil && binary.BigEndian.Uint64(k) <= high; k, _ = c.Seek(indexKey(low)) {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *logStore) Set(key, value []byte) error {
	return s.update(func(h *head) {
		stable := make(map[string][]byte, len(h.Stable)+1)
		for k, v := range h.Stable {
			stable[k] = v
		}
		stable[string(key)] = append([]byte(nil), value...)
		h.Stable = stable
	}, nil)
}

func (s *logStore) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.head.Stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return append([]byte(nil), v...), nil
}

func (s *logStore) SetUint64(key []byte, value uint64) error { return s.Set(key, indexKey(value)) }

func (s *logStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil || len(v) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

func (s *logStore) id() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head.ID
}

func (s *logStore) Close() error { return s.db.Close() }
