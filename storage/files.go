package storage

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unfinished begins the names of files that are being written.
const unfinished = ".drover-unfinished-"

// files is what lies in the operator's directories. They are opened anew for each call, so that one that is mounted
// later, or again, is found; but folders of files that are read and written are kept for a moment.
type files struct {
	dirs    []string // absolute, clean
	folders folders
}

// root opens the operator's directory that holds u, and names u in it.
func (f *files) root(u URL) (*os.Root, string, error) {
	name := filepath.Clean("/" + u.Key)
	dir := ""
	for _, d := range f.dirs {
		if len(d) > len(dir) && (name == d || strings.HasPrefix(name, strings.TrimSuffix(d, "/")+"/")) {
			dir = d
		}
	}
	switch {
	case dir == "" && len(f.dirs) == 0:
		return nil, "", faultf(ErrForbidden, "the operator has given no storage directories; use object storage")
	case dir == "":
		return nil, "", faultf(ErrForbidden, "it is in none of the operator's storage directories; use one of them: %s", strings.Join(f.dirs, ", "))
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", faultf(ErrNotFound, "the operator's storage directory %s isn't there", dir)
	}
	if err != nil {
		return nil, "", err
	}
	rel, err := filepath.Rel(dir, name)
	if err != nil {
		return nil, "", errors.Join(err, root.Close())
	}
	return root, rel, nil
}

func describe(u URL, info fs.FileInfo) Object {
	tag := fmt.Sprintf("%x-%x", info.ModTime().UnixNano(), info.Size())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		tag = fmt.Sprintf("%x-%s", st.Ino, tag)
	}
	return Object{URL: u, Size: info.Size(), ETag: tag, ModTime: info.ModTime()}
}

// fileBody is a file that says at its end whether it was changed meanwhile.
type fileBody struct {
	*os.File
	object Object
}

func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.File.Read(p)
	if errors.Is(err, io.EOF) {
		info, failed := b.File.Stat()
		if failed != nil {
			return n, failed
		}
		if describe(b.object.URL, info) != b.object {
			return n, faultf(ErrChanged, "it was changed while it was read")
		}
	}
	return n, err
}

func (f *files) read(_ context.Context, u URL) (io.ReadCloser, Object, error) {
	file, err := f.open(u)
	if err != nil {
		return nil, Object{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = faultf(ErrInvalid, "it is no regular file; name one file")
	}
	if err != nil {
		return nil, Object{}, errors.Join(err, file.Close())
	}
	object := describe(u, info)
	return &fileBody{file, object}, object, nil
}

// open opens a file to read it. What isn't found in its folder is looked for from the operator's directory on: a link may lead
// out of the one and not of the other, and the folder may be another one now.
func (f *files) open(u URL) (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK // a FIFO without a writer mustn't block
	if d, name, err := f.folder(u, false); err == nil {
		file, err := d.OpenFile(name, flags, 0)
		f.folders.leave(d)
		if err == nil {
			return file, nil
		}
	}
	root, name, err := f.root(u)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(name, flags, 0)
}

func (f *files) stat(ctx context.Context, u URL) (Object, error) {
	body, object, err := f.read(ctx, u)
	if err != nil {
		return Object{}, err
	}
	return object, body.Close()
}

// write makes the file beside its place, and moves it there once it is on the disk. Without sync one that is new is made
// in its place, which costs half as much.
func (f *files) write(ctx context.Context, u URL, r io.ReaderAt, size int64, sync bool) error {
	if strings.HasPrefix(path.Base(u.Key), unfinished) {
		return faultf(ErrInvalid, "names that begin with %q are those of unfinished files; choose another", unfinished)
	}
	if !sync {
		d, _, file, err := f.create(u, "")
		if err == nil {
			f.folders.leave(d)
			return fill(ctx, file, r, size, false) // what fails stays: the name may be that of another's file by now
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	temp := unfinished + rand.Text()
	d, name, file, err := f.create(u, temp)
	if err != nil {
		return err
	}
	defer f.folders.leave(d)
	err = fill(ctx, file, r, size, sync)
	if err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, d.Remove(temp))
	}
	if sync {
		return syncDir(d.Root, ".")
	}
	return nil
}

// create makes the file of u, or one beside it, in a folder that is to be left.
func (f *files) create(u URL, beside string) (d *folder, name string, file *os.File, err error) {
	for tries := 1; ; tries++ {
		d, name, err = f.folder(u, true)
		if err != nil {
			return nil, "", nil, err
		}
		file, err = d.OpenFile(cmp.Or(beside, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			return d, name, file, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			f.folders.forget(d) // it may have been removed meanwhile
		}
		f.folders.leave(d)
		if tries == 2 || !errors.Is(err, fs.ErrNotExist) {
			return nil, "", nil, err
		}
	}
}

// fill writes size bytes of r into a file, and closes it.
func fill(ctx context.Context, file *os.File, r io.ReaderAt, size int64, sync bool) error {
	buf := make([]byte, min(size, 1<<18))
	var err error
	for at := int64(0); at < size && err == nil; at += int64(len(buf)) {
		buf = buf[:min(size-at, int64(len(buf)))]
		var n int
		switch n, err = r.ReadAt(buf, at); {
		case ctx.Err() != nil:
			err = ctx.Err()
		case n == len(buf):
			_, err = file.Write(buf)
		case errors.Is(err, io.EOF):
			err = faultf(ErrInvalid, "the content has %d of the %d bytes announced", at+int64(n), size)
		}
	}
	if err == nil && sync {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

func (f *files) sync(_ context.Context, u URL) error {
	root, name, err := f.root(u)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *files) remove(_ context.Context, u URL) error {
	root, name, err := f.root(u)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Lstat(name); err != nil {
		return err
	} else if info.IsDir() {
		return faultf(ErrInvalid, "it is a folder; name one file")
	}
	if err := root.Remove(name); err != nil {
		return err
	}
	return syncDir(root, filepath.Dir(name))
}
