package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/drover-fleet/drover/scheduler/state"
)

// sealedSnapshots puts Raft's own data about a snapshot (index, term, members) into the snapshot's file
// before the state, with a CRC32C: the library keeps them in a file without one.
type sealedSnapshots struct{ *raft.FileSnapshotStore }

// preamble is what is sealed.
type preamble struct {
	Index, Term, ConfigurationIndex uint64
	Configuration                   []byte
}

const preambleLimit = 1 << 20

func (s sealedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration,
	configurationIndex uint64, t raft.Transport,
) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, c, configurationIndex, t)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(preamble{index, term, configurationIndex, raft.EncodeConfiguration(c)})
	if err == nil {
		sealed := seal(body)
		_, err = sink.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...))
	}
	if err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

// Open answers the state alone, as Create's caller wrote it.
func (s sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.FileSnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	size, err := readPreamble(r, meta)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("snapshot %s: %w", id, err), r.Close())
	}
	meta.Size -= size
	return meta, r, nil
}

// readPreamble reads the sealed data, compares them with the library's, and answers their size.
func readPreamble(r io.Reader, meta *raft.SnapshotMeta) (int64, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return 0, fmt.Errorf("its preamble: %w", err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > preambleLimit {
		return 0, fmt.Errorf("its preamble claims to have %d bytes", n)
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(r, sealed); err != nil {
		return 0, fmt.Errorf("its preamble: %w", err)
	}
	body, err := unseal(sealed)
	if err != nil {
		return 0, fmt.Errorf("its preamble: %w", err)
	}
	var p preamble
	if err := json.Unmarshal(body, &p); err != nil {
		return 0, fmt.Errorf("its preamble: %w", err)
	}
	if p.Index != meta.Index || p.Term != meta.Term || p.ConfigurationIndex != meta.ConfigurationIndex ||
		!bytes.Equal(p.Configuration, raft.EncodeConfiguration(meta.Configuration)) {
		return 0, errors.New("its meta.json says something else than its state.bin")
	}
	return int64(n) + 4, nil
}

// checkSnapshots reads every snapshot below dir to its end and answers the index of the newest, 0 when
// there is none. The library would silently pass over a damaged one and start from an older one.
func checkSnapshots(dir string, s sealedSnapshots) (newest uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read snapshots: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") { // left by a crash while it was written
			if err := os.RemoveAll(path); err != nil {
				return 0, fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
			continue
		}
		index, err := checkSnapshot(e.Name(), s)
		if errors.Is(err, state.ErrNewer) {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		if err != nil {
			return 0, &CorruptError{File: path, Err: err}
		}
		newest = max(newest, index)
	}
	return newest, nil
}

func checkSnapshot(id string, s sealedSnapshots) (uint64, error) {
	meta, r, err := s.Open(id)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if meta.ID != id || !strings.HasPrefix(id, fmt.Sprintf("%d-%d-", meta.Term, meta.Index)) {
		return 0, fmt.Errorf("it calls itself %q", meta.ID)
	}
	if meta.Version < raft.SnapshotVersionMin || meta.Version > raft.SnapshotVersionMax {
		return 0, fmt.Errorf("it has version %d", meta.Version)
	}
	index, err := state.CheckSnapshot(r)
	if err != nil {
		return 0, err
	}
	if index > meta.Index {
		return 0, fmt.Errorf("its state is of index %d, after the snapshot's %d", index, meta.Index)
	}
	return meta.Index, nil
}
