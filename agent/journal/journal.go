package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/drover-fleet/drover/devices"
)

// ErrCorrupt says that the journal can't be trusted.
var ErrCorrupt = errors.New("the journal is corrupt")

// ErrClosed answers a write after Close.
var ErrClosed = errors.New("the journal is closed")

var (
	bucketMeta      = []byte("meta")
	bucketInstances = []byte("instances")
)

const keyHeader = "header"

// Journal is open on one data directory, which no other process can open meanwhile. Its methods are safe
// for concurrent use.
type Journal struct {
	db   *bbolt.DB
	lock *os.File
	path string

	writes atomic.Uint64

	mu      sync.Mutex
	header  Header
	records map[string]Record
	// quarantined devices, by ID; replaced, never changed.
	quarantined map[string]devices.Quarantine
	contact     Contact
	failed      error // sticky: after a failed write memory and file may differ
	closed      bool
	pending     *batch

	some chan struct{}
	done chan struct{}
}

// batch is what one transaction will write.
type batch struct {
	header      *Header
	records     map[string]*Record // nil: deleted
	count       int                // records there will be
	quarantined map[string]devices.Quarantine
	contact     Contact
	err         error
	written     chan struct{}
}

// Open reads the journal in dir, or makes an empty one where none ever was.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		lock: lock, path: filepath.Join(dir, "journal.db"), records: map[string]Record{},
		some: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := j.open(filepath.Join(dir, "journal.marker")); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	go j.write()
	return j, nil
}

func (j *Journal) corrupt(why error) error {
	return fmt.Errorf("%w: %s: %w; the containers of this node run on. Restore the file from a copy, or, to give up "+
		"what it knew, move the whole data directory away and give the agent a new join file: it then takes its instances from the scheduler again, restarts each, and removes the old containers",
		ErrCorrupt, j.path, why)
}

func (j *Journal) open(marker string) error {
	_, markerErr := os.Stat(marker)
	if markerErr != nil && !errors.Is(markerErr, os.ErrNotExist) {
		return fmt.Errorf("open the journal: %w", markerErr)
	}
	_, err := os.Stat(j.path)
	fresh := errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !fresh:
		return fmt.Errorf("open the journal: %w", err)
	case fresh && markerErr == nil:
		return j.corrupt(errors.New("the file is missing, and " + marker + " says that it existed"))
	case !fresh:
		// Without the marker the very first start was cut short: a file that holds nothing yet is no loss.
		if info, err := os.Stat(j.path); err == nil && info.Size() == 0 && markerErr != nil {
			fresh = true
		} else if err := checkMetas(j.path); err != nil {
			return j.corrupt(err)
		}
	}
	if j.db, err = openDB(j.path); err != nil {
		return j.corrupt(err)
	}
	if fresh {
		err = j.initialise()
	} else if err = guard(j.read); err != nil {
		err = j.corrupt(err)
	}
	if err == nil && markerErr != nil {
		err = writeMarker(marker)
	}
	if err != nil {
		return errors.Join(err, guard(j.db.Close))
	}
	return nil
}

func (j *Journal) initialise() error {
	err := j.commit(&batch{header: &Header{}})
	if err != nil {
		return fmt.Errorf("make the journal %s: %w", j.path, err)
	}
	return nil
}

// read fills the memory from the file.
func (j *Journal) read() error {
	return j.db.View(func(tx *bbolt.Tx) error {
		meta, instances := tx.Bucket(bucketMeta), tx.Bucket(bucketInstances)
		if meta == nil || instances == nil {
			return errors.New("a table is missing")
		}
		head, err := decodeHeader(meta.Get([]byte(keyHeader)))
		if err != nil {
			return fmt.Errorf("header: %w", err)
		}
		j.header, j.quarantined, j.contact = head.Header, head.Quarantined, head.Contact
		err = instances.ForEach(func(k, v []byte) error {
			key := string(k)
			value, err := unseal(key, v)
			if err != nil {
				return fmt.Errorf("record %q: %w", key, err)
			}
			r, err := decodeRecord(key, value)
			if err != nil {
				return fmt.Errorf("record %q: %w", key, err)
			}
			j.records[key] = r
			return nil
		})
		if err == nil && len(j.records) != head.Records {
			err = fmt.Errorf("it holds %d records and should hold %d", len(j.records), head.Records)
		}
		return err
	})
}

// Header answers what was last written.
func (j *Journal) Header() Header {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.header
}

// Records answers every record by instance ID.
func (j *Journal) Records() map[string]Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.records)
}

// Quarantined answers the devices that SetQuarantined kept last.
func (j *Journal) Quarantined() map[string]devices.Quarantine {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.quarantined)
}

// SetQuarantined replaces what Quarantined answers, and returns when that is on the disk.
func (j *Journal) SetQuarantined(all map[string]devices.Quarantine) error {
	return j.stage(func(*batch) { j.quarantined = maps.Clone(all) })()
}

// Contact answers what SetContact kept last.
func (j *Journal) Contact() Contact {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.contact
}

// SetContact replaces what Contact answers, and returns when that is on the disk.
func (j *Journal) SetContact(c Contact) error {
	return j.stage(func(*batch) { j.contact = c })()
}

// Writes counts the transactions since Open.
func (j *Journal) Writes() uint64 { return j.writes.Load() }

// Err answers why the journal can no longer be written, if so.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// Save writes records and, when not nil, the header, in one transaction; it returns when they are on the
// disk. The journal keeps what it is given: the caller clones before changing it.
func (j *Journal) Save(header *Header, records ...Record) error { return j.Stage(header, records...)() }

// Stage is Save in two parts: what is staged first is written first, and wait returns when it is on the
// disk. It lets a caller fix the order under its own lock without waiting under it.
func (j *Journal) Stage(header *Header, records ...Record) (wait func() error) {
	return j.stage(func(b *batch) {
		if header != nil {
			b.header, j.header = header, *header
		}
		for _, r := range records {
			j.records[r.ID()], b.records[r.ID()] = r, &r
		}
	})
}

// Forget deletes the record of an instance.
func (j *Journal) Forget(id string) error {
	return j.stage(func(b *batch) {
		delete(j.records, id)
		b.records[id] = nil
	})()
}

func (j *Journal) stage(change func(*batch)) (wait func() error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.failed; err != nil || j.closed {
		return func() error { return errors.Join(ErrClosed, err) }
	}
	if j.pending == nil {
		j.pending = &batch{records: map[string]*Record{}, written: make(chan struct{})}
	}
	b := j.pending
	change(b)
	b.count, b.quarantined, b.contact = len(j.records), j.quarantined, j.contact
	if b.header == nil {
		header := j.header
		b.header = &header
	}
	select { // under the lock, for Close closes the channel after it took the lock
	case j.some <- struct{}{}:
	default:
	}
	return func() error {
		<-b.written
		return b.err
	}
}

// write is the goroutine that owns the file's writes; Close ends it.
func (j *Journal) write() {
	defer close(j.done)
	for range j.some {
		j.mu.Lock()
		b := j.pending
		j.pending = nil
		j.mu.Unlock()
		if b == nil {
			continue
		}
		if b.err = j.commit(b); b.err != nil {
			b.err = fmt.Errorf("write the journal %s: %w", j.path, b.err)
			j.mu.Lock()
			j.failed = errors.Join(j.failed, b.err)
			j.mu.Unlock()
		}
		close(b.written)
	}
}

func (j *Journal) commit(b *batch) error {
	j.writes.Add(1)
	return guard(func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			meta, err := tx.CreateBucketIfNotExists(bucketMeta)
			if err != nil {
				return err
			}
			instances, err := tx.CreateBucketIfNotExists(bucketInstances)
			if err != nil {
				return err
			}
			for id, r := range b.records {
				if r == nil {
					err = instances.Delete([]byte(id))
				} else {
					var value []byte
					if value, err = encodeRecord(*r); err == nil {
						err = instances.Put([]byte(id), seal(id, value))
					}
				}
				if err != nil {
					return err
				}
			}
			value, err := encodeHeader(storedHeader{Header: *b.header, Records: b.count, Quarantined: b.quarantined, Contact: b.contact})
			if err != nil {
				return err
			}
			return meta.Put([]byte(keyHeader), value)
		})
	})
}

// Close writes what waits and gives the directory back.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	j.some <- struct{}{} // after the token that may be in it, so that the last batch is seen
	close(j.some)
	<-j.done
	return errors.Join(guard(j.db.Close), j.lock.Close())
}
