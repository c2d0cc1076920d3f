package events

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/boltfile"
)

// Buckets: "events" by Raft index and place in the entry, each with its CRC32C before it; "head" with the last index
// written, likewise. Files of earlier versions have an index in "objects".
const (
	bucketEvents  = "events"
	bucketObjects = "objects"
	bucketHead    = "head"
	keyLast       = "last"
)

// eventsFill is how full pages of events become before the next is begun: nothing is put between what is there.
const eventsFill = 0.95

// pruneStep is how many events one transaction looks at, so that writes come in between.
const pruneStep = 2000

// damagedError means that the file's content is not what was written.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return fmt.Sprintf("damaged: %v", e.err) }
func (e *damagedError) Unwrap() error { return e.err }

// file is the bbolt file. The lock is for swapping it, and for closing: both wait for readers.
type file struct {
	mu    sync.RWMutex
	db    *bbolt.DB
	last  uint64 // last index in the file when it was opened
	count int    // of events; the writer's alone
	index *index // of the events in the file, and some that were
}

// eventKey orders events.
type eventKey struct {
	index uint64
	n     uint32
}

const keySize = 12 // of an event, in the file

func (k eventKey) bytes() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 0, keySize), k.index), k.n)
}

func keyOf(b []byte) eventKey {
	return eventKey{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}
}

func (k eventKey) before(o eventKey) bool {
	return k.index < o.index || k.index == o.index && k.n < o.n
}

// openFile reads every event.
func openFile(path string) (*file, error) {
	if _, err := os.Stat(path); err == nil {
		if err := boltfile.Check(path); err != nil {
			return nil, &damagedError{err}
		}
	}
	f := &file{index: newIndex()}
	err := guarded(func() (err error) {
		f.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = f.update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte(bucketObjects)); err != nil && !errors.Is(err, bbolterrors.ErrBucketNotFound) {
			return err
		}
		for _, name := range []string{bucketEvents, bucketHead} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if v := tx.Bucket([]byte(bucketHead)).Get([]byte(keyLast)); v != nil {
			b, err := unseal(v)
			if err != nil || len(b) != 8 {
				return &damagedError{errors.New("the CRC32C of the last index is wrong")}
			}
			f.last = binary.BigEndian.Uint64(b)
		}
		return tx.Bucket([]byte(bucketEvents)).ForEach(func(k, v []byte) error {
			e, err := decode(v)
			if err != nil {
				return err
			}
			if len(k) != keySize {
				return &damagedError{errors.New("the key of an event is too short or too long")}
			}
			f.count++
			f.index.add(keyOf(k), e)
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// guarded turns bbolt's panics into damage.
func guarded(do func() error) error {
	err := boltfile.Guard(do)
	var p *boltfile.PanicError
	if errors.As(err, &p) {
		return &damagedError{err}
	}
	return err
}

func (f *file) update(do func(*bbolt.Tx) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return guarded(func() error { return f.db.Update(do) })
}

func encode(e *fleetv1.Event) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 256), e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return seal(b), nil
}

// seal puts the CRC32C of the rest into the first four bytes.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, &damagedError{errors.New("the CRC32C of an event is wrong")}
	}
	return b[4:], nil
}

func decode(b []byte) (*fleetv1.Event, error) {
	b, err := unseal(b)
	if err != nil {
		return nil, err
	}
	e := &fleetv1.Event{}
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, &damagedError{err}
	}
	return e, nil
}

// write stores a batch in one durable transaction, and deletes the oldest events above the limit.
func (f *file) write(batch []entry, limit int) error {
	count, first := f.count, eventKey{}
	err := f.update(func(tx *bbolt.Tx) error {
		count = f.count
		events := tx.Bucket([]byte(bucketEvents))
		events.FillPercent = eventsFill
		for _, en := range batch {
			b, err := encode(en.event)
			if err != nil {
				return err
			}
			if err := events.Put(en.key.bytes(), b); err != nil {
				return err
			}
		}
		count += len(batch)
		c := events.Cursor()
		for ; count > limit; count-- {
			k, _ := c.First()
			if err := events.Delete(k); err != nil {
				return err
			}
		}
		k, _ := c.First()
		first = keyOf(k)
		last := binary.BigEndian.AppendUint64(make([]byte, 4, 12), batch[len(batch)-1].key.index)
		return tx.Bucket([]byte(bucketHead)).Put([]byte(keyLast), seal(last))
	})
	if err != nil {
		return err
	}
	f.count = count
	for _, en := range batch {
		f.index.add(en.key, en.event)
	}
	f.index.trim(first)
	return nil
}

// prune deletes the events that are old, oldest index first, until one is young.
func (f *file) prune(judge func(*fleetv1.Event) (old, young bool)) error {
	from, more := []byte(nil), true
	for more {
		dropped := 0
		err := f.update(func(tx *bbolt.Tx) error {
			dropped, more = 0, false
			events := tx.Bucket([]byte(bucketEvents))
			var olds [][]byte
			c, seen := events.Cursor(), 0
			k, v := c.Seek(from)
			for ; k != nil && seen < pruneStep; k, v = c.Next() {
				e, err := decode(v)
				if err != nil {
					return err
				}
				old, young := judge(e)
				if young {
					k = nil
					break
				}
				if old {
					olds = append(olds, bytes.Clone(k))
				}
				seen++
			}
			from, more = bytes.Clone(k), k != nil
			for _, k := range olds {
				if err := events.Delete(k); err != nil {
					return err
				}
			}
			dropped = len(olds)
			return nil
		})
		if err != nil {
			return err
		}
		f.count -= dropped
	}
	return nil
}

// list answers the newest selected events up to an index, oldest first.
func (f *file) list(ctx context.Context, q Query, upTo uint64) ([]*fleetv1.Event, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*fleetv1.Event
	err := guarded(func() error {
		return f.db.View(func(tx *bbolt.Tx) (err error) {
			f.newestFirst(tx, q, upTo, func(value []byte) bool {
				var e *fleetv1.Event
				if e, err = decode(value); err == nil {
					err = ctx.Err()
				}
				if err == nil && q.matches(e) {
					out = append(out, e)
				}
				return err == nil && len(out) < q.limit()
			})
			return err
		})
	})
	slices.Reverse(out)
	return out, err
}

// newestFirst hands over what is stored of the events that may match, from the newest up to an index on, until visit
// says no.
func (f *file) newestFirst(tx *bbolt.Tx, q Query, upTo uint64, visit func(value []byte) bool) {
	events := tx.Bucket([]byte(bucketEvents))
	if q.Kind != "" && q.Name != "" {
		f.index.of(q.Kind, q.Name, func(key eventKey) bool {
			if key.index > upTo {
				return true
			}
			value := events.Get(key.bytes())
			return value == nil || visit(value) // nil when it was deleted
		})
		return
	}
	c := events.Cursor()
	step := c.Prev
	if k, _ := c.Seek(eventKey{upTo + 1, 0}.bytes()); k == nil {
		step = c.Last
	}
	for k, v := step(); k != nil && visit(v); {
		k, v = c.Prev()
	}
}

// swap closes the file, which must be damaged, and puts another in its place.
func (f *file) swap(open func() (*file, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	closeErr := guarded(f.db.Close)
	n, err := open()
	if err != nil {
		return errors.Join(err, closeErr)
	}
	f.db, f.last, f.count, f.index = n.db, n.last, n.count, n.index
	return nil
}

func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return guarded(f.db.Close)
}
