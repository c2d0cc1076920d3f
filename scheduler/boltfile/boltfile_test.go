package boltfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// made writes a file with small and large values, nested and inline buckets, and freed pages.
func made(t testing.TB, o *bbolt.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("rows"))
			if err != nil {
				return err
			}
			if _, err := b.CreateBucketIfNotExists([]byte("inline")); err != nil {
				return err
			}
			for i := range 300 {
				if err := b.Put(fmt.Appendf(nil, "key-%04d", i*(round+1)), make([]byte, i)); err != nil {
					return err
				}
			}
			if err := b.Put([]byte("large"), make([]byte, 20_000)); err != nil {
				return err
			}
			return b.Delete([]byte("key-0003"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSoundFiles(t *testing.T) {
	for _, o := range []*bbolt.Options{nil, {NoFreelistSync: true}, {PageSize: 1024}} {
		if err := Check(made(t, o)); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.db")
	db, err := bbolt.Open(empty, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Check(empty); err != nil {
		t.Errorf("a new file: %v", err)
	}
}

func TestGuard(t *testing.T) {
	var p *PanicError
	if err := Guard(func() error { panic("page 7") }); !errors.As(err, &p) || p.Value != "page 7" {
		t.Errorf("got %v", err)
	}
	if err := Guard(func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestDamage(t *testing.T) {
	path := made(t, &bbolt.Options{NoFreelistSync: true})
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "one page": good[:4096], "cut off": good[:len(good)/2], "text": []byte("hello"),
	} {
		if check(b) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	for _, at := range []int{8, 16, 24, 40, 64, 72, 4096, 4096 + 72} { // both metas
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		if check(bad) == nil {
			t.Errorf("meta byte %d: not found", at)
		}
	}
	if Check(filepath.Join(t.TempDir(), "none")) == nil {
		t.Error("a missing file is sound")
	}
}

// FuzzCheck: Check ends without a panic, and what it finds sound bbolt reads.
func FuzzCheck(f *testing.F) {
	good, err := os.ReadFile(made(f, &bbolt.Options{PageSize: 1024, NoFreelistSync: true}))
	if err != nil {
		f.Fatal(err)
	}
	for at := range 40 {
		bad := append([]byte(nil), good...)
		bad[at*len(bad)/40] ^= 0x22
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if check(b) != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatalf("sound, but: %v", err)
		}
		defer db.Close()
		err = db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return b.ForEach(func(_, _ []byte) error { return nil }) })
		})
		if err != nil {
			t.Fatalf("sound, but: %v", err)
		}
	})
}
