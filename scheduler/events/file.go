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
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/boltfile"
)

// Buckets: "events" by Raft index and place in the entry, each with its CRC32C before it; "objects" by kind, name
// or ID, and event; "head" with the last index written, likewise.
const (
	bucketEvents  = "events"
	bucketObjects = "objects"
	bucketHead    = "head"
	keyLast       = "last"
)

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
}

// eventKey orders events.
type eventKey struct {
	index uint64
	n     uint32
}

func (k eventKey) bytes() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 0, 12), k.index), k.n)
}

// openFile reads every event, in order, into each.
func openFile(path string, each func(*fleetv1.Event)) (*file, error) {
	if _, err := os.Stat(path); err == nil {
		if err := boltfile.Check(path); err != nil {
			return nil, &damagedError{err}
		}
	}
	f := &file{}
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
		for _, name := range []string{bucketEvents, bucketObjects, bucketHead} {
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
		return tx.Bucket([]byte(bucketEvents)).ForEach(func(_, v []byte) error {
			e, err := decode(v)
			if err != nil {
				return err
			}
			f.count++
			each(e)
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

// objectKeys are the event's keys in the objects bucket: by ID and by name of each object.
func objectKeys(e *fleetv1.Event, key eventKey) [][]byte {
	var keys [][]byte
	for _, o := range e.GetObjects() {
		for _, id := range []string{o.GetId(), o.GetName()} {
			if id != "" {
				keys = append(keys, append(objectPrefix(o.GetKind(), id), key.bytes()...))
			}
		}
	}
	return keys
}

func objectPrefix(kind, id string) []byte { return []byte(kind + "\x00" + id + "\x00") }

// write stores a batch in one durable transaction, and deletes the oldest events above the limit.
func (f *file) write(batch []entry, limit int) error {
	count := f.count
	err := f.update(func(tx *bbolt.Tx) error {
		count = f.count
		events, objects := tx.Bucket([]byte(bucketEvents)), tx.Bucket([]byte(bucketObjects))
		for _, en := range batch {
			b, err := encode(en.event)
			if err != nil {
				return err
			}
			if err := events.Put(en.key.bytes(), b); err != nil {
				return err
			}
			for _, k := range objectKeys(en.event, en.key) {
				if err := objects.Put(k, nil); err != nil {
					return err
				}
			}
		}
		count += len(batch)
		for count > limit {
			k, v := events.Cursor().First()
			if err := drop(events, objects, k, v); err != nil {
				return err
			}
			count--
		}
		last := binary.BigEndian.AppendUint64(make([]byte, 4, 12), batch[len(batch)-1].key.index)
		return tx.Bucket([]byte(bucketHead)).Put([]byte(keyLast), seal(last))
	})
	if err == nil {
		f.count = count
	}
	return err
}

func drop(events, objects *bbolt.Bucket, k, v []byte) error {
	e, err := decode(v)
	if err != nil {
		return err
	}
	k = bytes.Clone(k)
	key := eventKey{binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:])}
	for _, o := range objectKeys(e, key) {
		if err := objects.Delete(o); err != nil {
			return err
		}
	}
	return events.Delete(k)
}

// prune deletes the events that are old, oldest index first, until one is young.
func (f *file) prune(judge func(*fleetv1.Event) (old, young bool)) error {
	from, more := []byte(nil), true
	for more {
		dropped := 0
		err := f.update(func(tx *bbolt.Tx) error {
			dropped, more = 0, false
			events, objects := tx.Bucket([]byte(bucketEvents)), tx.Bucket([]byte(bucketObjects))
			type row struct{ k, v []byte }
			var olds []row
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
					olds = append(olds, row{bytes.Clone(k), bytes.Clone(v)})
				}
				seen++
			}
			from, more = bytes.Clone(k), k != nil
			for _, r := range olds {
				if err := drop(events, objects, r.k, r.v); err != nil {
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
		return f.db.View(func(tx *bbolt.Tx) error {
			return newestFirst(tx, q, eventKey{upTo, ^uint32(0)}, func(e *fleetv1.Event) (bool, error) {
				if q.matches(e) {
					out = append(out, e)
				}
				return len(out) < q.limit(), ctx.Err()
			})
		})
	})
	slices.Reverse(out)
	return out, err
}

// newestFirst hands over the events that may match, from the newest at or below last, until visit says no.
func newestFirst(tx *bbolt.Tx, q Query, last eventKey, visit func(*fleetv1.Event) (bool, error)) error {
	events := tx.Bucket([]byte(bucketEvents))
	bucket, prefix := events, []byte(nil)
	if q.Kind != "" && q.Name != "" {
		bucket, prefix = tx.Bucket([]byte(bucketObjects)), objectPrefix(q.Kind, q.Name)
	}
	c := bucket.Cursor()
	k, _ := c.Seek(append(bytes.Clone(prefix), last.bytes()...))
	if k == nil {
		k, _ = c.Last()
	}
	for ; k != nil; k, _ = c.Prev() {
		id := k[max(0, len(k)-12):]
		if bytes.Compare(k, append(bytes.Clone(prefix), last.bytes()...)) > 0 {
			continue // Seek stops at what follows
		}
		if !bytes.HasPrefix(k, prefix) || len(k) != len(prefix)+12 {
			return nil
		}
		e, err := decode(events.Get(id))
		if err != nil {
			return err
		}
		if more, err := visit(e); !more || err != nil {
			return err
		}
	}
	return nil
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
	f.db, f.last, f.count = n.db, n.last, n.count
	return nil
}

func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return guarded(f.db.Close)
}
