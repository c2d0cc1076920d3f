package storage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
)

// namesAtOnce bounds what is held of one directory. A larger one is read again for each such part.
const namesAtOnce = 1 << 16

func (f *files) list(ctx context.Context, folder URL, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		root, name, err := f.root(folder)
		if err != nil {
			yield(Object{}, err)
			return
		}
		defer root.Close()
		w := walk{ctx: ctx, root: root, atOnce: namesAtOnce, yield: yield}
		rest, within := strings.CutPrefix(after, folder.Key)
		switch {
		case within:
		case after > folder.Key:
			return
		default:
			rest = ""
		}
		w.dir(name, folder, rest)
	}
}

// walk goes through a tree in the order of the keys' bytes.
type walk struct {
	ctx    context.Context
	root   *os.Root
	atOnce int
	yield  func(Object, error) bool
}

// dir yields what of a directory is behind after, which is relative to it, and reports whether to go on.
func (w *walk) dir(name string, u URL, after string) bool {
	for last := ""; ; {
		if w.ctx.Err() != nil {
			return w.yield(Object{}, w.ctx.Err())
		}
		entries, more, err := w.entries(name, last, after)
		if errors.Is(err, fs.ErrNotExist) {
			return true // was removed, or never there
		}
		if err != nil {
			w.yield(Object{}, err)
			return false
		}
		for _, e := range entries {
			if !w.entry(name, u, e, after) {
				return false
			}
			last = e
		}
		if !more {
			return true
		}
	}
}

func (w *walk) entry(dir string, u URL, entry, after string) bool {
	u.Key += entry
	name := path.Join(dir, entry)
	if strings.HasSuffix(entry, "/") {
		rest, within := strings.CutPrefix(after, entry)
		if !within {
			rest = ""
		}
		return w.dir(name, u, rest)
	}
	info, err := w.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true
	case err != nil:
		w.yield(Object{}, err)
		return false
	case !info.Mode().IsRegular():
		return true
	}
	return w.yield(describe(u, info), nil)
}

// entries returns the first names of a directory behind last in the order of keys, and whether there are
// more. A directory's name ends in "/", as in the keys of what it holds.
func (w *walk) entries(name, last, after string) (entries []string, more bool, err error) {
	d, err := w.root.Open(name)
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	smallest := func() {
		slices.Sort(entries)
		if len(entries) > w.atOnce {
			more = true
			entries = slices.Delete(entries, w.atOnce, len(entries))
		}
	}
	for {
		part, err := d.ReadDir(1024)
		for _, e := range part {
			entry := e.Name()
			if e.IsDir() {
				entry += "/"
			} else if !e.Type().IsRegular() || strings.HasPrefix(entry, unfinished) {
				continue
			}
			begun := e.IsDir() && strings.HasPrefix(after, entry) // some of what it holds is behind after
			if entry > last && (entry > after || begun) {
				entries = append(entries, entry)
			}
		}
		if len(entries) >= 2*w.atOnce {
			smallest()
		}
		if errors.Is(err, io.EOF) {
			smallest()
			return entries, more, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
}
