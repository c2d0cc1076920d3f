package storage

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Folders are kept open for the files that follow in the same one: to find them anew costs as much as to read a small file,
// and more on a network's file system.
const (
	folderKept  = time.Second
	mostFolders = 64
)

// folders are those that were opened a moment ago, by their paths.
type folders struct {
	mu   sync.Mutex
	kept map[string]*folder
}

// folder is an open one.
type folder struct {
	*os.Root
	path  string
	users int // guarded by folders.mu
}

// folder opens the folder that holds u, or one that is kept, and names u in it; one that isn't there is made if it should be.
// Whoever gets it leaves it.
func (f *files) folder(u URL, create bool) (*folder, string, error) {
	path, name := filepath.Split(filepath.Clean("/" + u.Key))
	if d := f.folders.enter(path); d != nil {
		return d, name, nil
	}
	root, rel, err := f.root(u)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	dir := filepath.Dir(rel)
	opened, err := root.OpenRoot(dir)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(root, dir); err != nil {
			return nil, "", err
		}
		opened, err = root.OpenRoot(dir)
	}
	if err != nil {
		return nil, "", err
	}
	return f.folders.keep(path, opened), name, nil
}

// makeDirs makes a directory with those above it, and has their names survive a power failure.
func makeDirs(root *os.Root, dir string) error {
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for dir != "." {
		dir = filepath.Dir(dir)
		if err := syncDir(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// enter answers a folder that is kept, nil for none.
func (o *folders) enter(path string) *folder {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.kept[path]
	if d != nil {
		d.users++
	}
	return d
}

// keep keeps a folder for a moment, unless there are many.
func (o *folders) keep(path string, root *os.Root) *folder {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := &folder{Root: root, path: path, users: 1}
	if o.kept[path] == nil && len(o.kept) < mostFolders {
		if o.kept == nil {
			o.kept = map[string]*folder{}
		}
		o.kept[path] = d
		d.users++
		time.AfterFunc(folderKept, func() { o.forget(d) })
	}
	return d
}

// close keeps none of them any longer.
func (o *folders) close() {
	o.mu.Lock()
	all := slices.Collect(maps.Values(o.kept))
	o.mu.Unlock()
	for _, d := range all {
		o.forget(d)
	}
}

// forget keeps a folder no longer.
func (o *folders) forget(d *folder) {
	o.mu.Lock()
	kept := o.kept[d.path] == d
	if kept {
		delete(o.kept, d.path)
	}
	o.mu.Unlock()
	if kept {
		o.leave(d)
	}
}

// leave closes a folder when nobody uses it any more.
func (o *folders) leave(d *folder) {
	o.mu.Lock()
	d.users--
	last := d.users == 0
	o.mu.Unlock()
	if last {
		_ = d.Close() // nothing is lost with it
	}
}
