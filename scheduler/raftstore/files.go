package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
)

// Files below <data dir>/raft: "lock", "id" (this scheduler's UUID), "log" (with the stable values and the UUID) and
// "snapshots".
const (
	fileID        = "id"
	dirLog        = "log"
	dirSnapshots  = "snapshots"
	keepSnapshots = 2
)

// openFiles opens what is stored, or makes it when nothing is. It never makes anything when a part of it
// is there: that would be starting empty.
func (s *Store) openFiles(dir string) (raft.SnapshotStore, error) {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, &hlogger{to: s.cfg.Logger.With("part", "raft")})
	if err != nil {
		return nil, err
	}
	sealed := sealedSnapshots{snaps}
	newest, err := checkSnapshots(filepath.Join(dir, dirSnapshots), sealed)
	if err != nil {
		return nil, err
	}
	c := s.logConfig(dir)
	idPath := filepath.Join(dir, fileID)
	marker, err := readIfExists(idPath)
	if err != nil {
		return nil, err
	}
	if err := takeOver(filepath.Join(dir, fileFormerLog), c); err != nil {
		return nil, err
	}
	switch _, err := os.Stat(c.dir); {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case marker != "" || newest > 0:
		return nil, &CorruptError{File: c.dir, Err: errors.New("the directory is missing, but this scheduler had one")}
	default:
		if err := createLog(c, head{ID: uuid.NewString()}, nil); err != nil {
			return nil, fmt.Errorf("create %s: %w", c.dir, err)
		}
	}
	if s.logs, err = openLog(c); err != nil {
		return nil, err
	}
	s.id = s.logs.head.ID
	switch marker {
	case s.id:
	case "": // the first start, or one that ended before this line
		if err := writeDurably(idPath, s.id+"\n"); err != nil {
			return nil, err
		}
	default:
		return nil, &CorruptError{File: idPath, Err: fmt.Errorf("it says that this is scheduler %q, %s that it is %q", marker, c.dir, s.id)}
	}
	return sealed, s.joinLog(dir, newest)
}

func (s *Store) logConfig(dir string) logConfig {
	return logConfig{
		dir: filepath.Join(dir, dirLog), segmentSize: s.cfg.SegmentSize, stall: s.stall, fail: s.fail, sync: fdatasync, logger: s.cfg.Logger,
	}
}

// joinLog checks that log and newest snapshot meet, and drops a log that ends before the snapshot: a crash
// came between installing the leader's snapshot and clearing the log.
func (s *Store) joinLog(dir string, snapshot uint64) error {
	first, last := s.logs.log.First, s.logs.log.Last
	switch {
	case first > snapshot+1:
		return &CorruptError{
			File: filepath.Join(dir, dirSnapshots),
			Err:  fmt.Errorf("the newest snapshot ends at entry %d, but the log begins at %d", snapshot, first),
		}
	case last != 0 && last < snapshot:
		return s.logs.DeleteRange(first, last)
	}
	return nil
}

func readIfExists(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && strings.TrimSpace(string(b)) == "" {
		return "", &CorruptError{File: path, Err: errors.New("the file is empty")}
	}
	return strings.TrimSpace(string(b)), err
}

// writeDurably makes a file that is there whole or not at all.
func writeDurably(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
