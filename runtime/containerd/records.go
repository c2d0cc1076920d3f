package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// record is what containerd does not keep about a container. It is written without syncing: after a
// power cut its container is gone as well.
type record struct {
	ID       string
	Host     bool      `json:",omitempty"` // uses the host's network
	IP       string    `json:",omitempty"`
	Veth     string    `json:",omitempty"` // the host's end
	Port     int       `json:",omitempty"` // of the container
	HostPort int       `json:",omitempty"` // 0 unpublished
	LogDir   string    `json:",omitempty"`
	Task     bool      `json:",omitempty"` // its task was made
	Pid      int       `json:",omitempty"`
	Started  time.Time `json:",omitzero"`
	Broken   time.Time `json:",omitzero"` // when its task was first missed

	deleting bool
}

// records holds every container's record, in memory and in <dir>/<ID>/record.json.
type records struct {
	dir string
	mu  sync.Mutex
	all map[string]record
}

func loadRecords(dir string) (*records, error) {
	rs := &records{dir: dir, all: map[string]record{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read container records: %w", err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name(), "record.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // made in part: Delete or Create finds the rest
		}
		if err != nil {
			return nil, fmt.Errorf("read container record: %w", err)
		}
		rec := record{ID: entry.Name()}
		if err := json.Unmarshal(raw, &rec); err != nil {
			// Cut off by a power cut, with which the container ended: what is left of it is broken.
			rec = record{ID: entry.Name(), Task: true}
		}
		rs.all[entry.Name()] = rec
	}
	return rs, nil
}

func (rs *records) path(id string) string { return filepath.Join(rs.dir, id) }

func (rs *records) get(id string) (record, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rec, ok := rs.all[id]
	return rec, ok
}

// list answers all records in the order of their IDs.
func (rs *records) list() []record {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	list := make([]record, 0, len(rs.all))
	for _, id := range slices.Sorted(maps.Keys(rs.all)) {
		list = append(list, rs.all[id])
	}
	return list
}

// update changes a record, which it makes when missing, and writes it.
func (rs *records) update(id string, change func(*record)) (record, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rec := rs.all[id]
	rec.ID = id
	change(&rec)
	rs.all[id] = rec
	raw, err := json.Marshal(rec)
	if err != nil {
		return rec, fmt.Errorf("write container record: %w", err)
	}
	if err := os.MkdirAll(rs.path(id), 0o711); err != nil {
		return rec, fmt.Errorf("write container record: %w", err)
	}
	path := filepath.Join(rs.path(id), "record.json")
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return rec, fmt.Errorf("write container record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return rec, fmt.Errorf("write container record: %w", err)
	}
	return rec, nil
}

// deleting marks a container that is being removed, in memory alone.
func (rs *records) deleting(id string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rec, ok := rs.all[id]; ok {
		rec.deleting = true
		rs.all[id] = rec
	}
}

// remove forgets a container and removes its directory.
func (rs *records) remove(id string) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if err := os.RemoveAll(rs.path(id)); err != nil {
		return fmt.Errorf("remove container record: %w", err)
	}
	delete(rs.all, id)
	return nil
}
