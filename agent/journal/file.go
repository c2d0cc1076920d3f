package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bboltErrors "go.etcd.io/bbolt/errors"
)

// guard turns panics and page faults of the database into errors.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the database failed: %v", p)
		}
	}()
	return f()
}

func openDB(path string) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
		return err
	})
	if errors.Is(err, bboltErrors.ErrTimeout) {
		err = errors.New("another program has the file open")
	}
	return db, err
}

// Layout of the database's first two pages: a page header, then the meta with its checksum last.
const (
	metaOffset  = 16
	metaSumFrom = 56
	metaLength  = 64
	metaMagic   = 0xED0CDAED
)

// checkMetas demands that both meta pages are whole. A meta fits one disk sector, so a crash leaves it
// old or new, never torn.
func checkMetas(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	pageSize := int64(os.Getpagesize())
	for i := range int64(2) {
		meta := make([]byte, metaLength)
		if _, err := f.ReadAt(meta, i*pageSize+metaOffset); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:metaSumFrom]) // never fails
		if binary.NativeEndian.Uint32(meta) != metaMagic || binary.NativeEndian.Uint64(meta[metaSumFrom:]) != sum.Sum64() {
			return fmt.Errorf("page %d is damaged", i)
		}
	}
	return nil
}

func encodeHeader(h storedHeader) ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return seal(keyHeader, b), nil
}

func decodeHeader(sealed []byte) (storedHeader, error) {
	var h storedHeader
	value, err := unseal(keyHeader, sealed)
	if err == nil {
		err = json.Unmarshal(value, &h)
	}
	return h, err
}

// writeMarker writes and syncs the file that says a journal existed.
func writeMarker(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	_, err = f.WriteString("This directory has a journal; an agent that does not find it must not start.\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
