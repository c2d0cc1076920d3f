package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"
)

// Config says what may be reached, and how. The zero value reaches signed links alone.
type Config struct {
	Dirs   []string         // absolute paths: file:// lies in one of them
	Stores map[string]Store // by scheme: "s3", "obs"

	CAFile     string // certificates that links may show besides the system's; PEM
	LocalLinks bool   // links may lead to this machine, and to link-local addresses

	Attempts int           // of a call that fails with ErrTemporary; 0 means 4, 1 means no second one
	Idle     time.Duration // without a byte to or from a server until a call fails; 0 means 30 s
}

// Store is one S3-compatible object storage.
type Store struct {
	Endpoint     string // host or host:port
	Region       string // default us-east-1
	PathStyle    bool   // https://endpoint/bucket/key, not https://bucket.endpoint/key
	AccessKey    string // empty: requests aren't signed
	SecretKey    string
	SessionToken string // of temporary credentials
	CAFile       string // certificates that the endpoint may show besides the system's; PEM
	Insecure     bool   // plain HTTP
}

// Object is a file or an object as it was when asked for.
type Object struct {
	URL     URL
	Size    int64  // bytes; -1 where a link's server doesn't say
	ETag    string // another one means other content; empty where a link's server gives none
	ModTime time.Time
}

// ReadOptions narrow what Read accepts.
type ReadOptions struct {
	IfETag string // fail with ErrChanged unless the object still has it; empty: whatever is there
	Limit  int64  // fail with ErrTooLarge when there are more bytes; 0: no limit
}

// backend is one kind of storage. Its errors are explained by its caller.
type backend interface {
	list(ctx context.Context, folder URL, after string) iter.Seq2[Object, error]
	read(ctx context.Context, u URL) (io.ReadCloser, Object, error)
	stat(ctx context.Context, u URL) (Object, error)
	// write has it survive a power failure when sync is set, else after the next sync.
	write(ctx context.Context, u URL, r io.ReaderAt, size int64, sync bool) error
	sync(ctx context.Context, folder URL) error
	remove(ctx context.Context, u URL) error
}

// Storage reads and writes what its configuration allows. It is safe for concurrent use.
type Storage struct {
	backends map[string]backend
	attempts int
	closers  []func()
}

// Open checks the configuration. It reaches nothing: what doesn't answer is found by the first call.
func Open(cfg Config) (*Storage, error) {
	if cfg.Attempts < 0 || cfg.Idle < 0 {
		return nil, fmt.Errorf("%w: attempts and the idle time must not be negative", ErrInvalid)
	}
	idle := cmp.Or(cfg.Idle, 30*time.Second)
	s := &Storage{backends: map[string]backend{}, attempts: cmp.Or(cfg.Attempts, 4)}
	dirs := &files{}
	for _, d := range cfg.Dirs {
		if !filepath.IsAbs(d) {
			return nil, fmt.Errorf("%w: storage directory %q isn't an absolute path; write it from /", ErrInvalid, d)
		}
		dirs.dirs = append(dirs.dirs, filepath.Clean(d))
	}
	s.backends[File] = dirs
	s.closers = append(s.closers, dirs.folders.close)
	links, err := newLinks(cfg, idle)
	if err != nil {
		return nil, err
	}
	s.backends[HTTPS] = links
	s.closers = append(s.closers, links.client.CloseIdleConnections)
	for scheme, store := range cfg.Stores {
		if scheme != S3 && scheme != OBS {
			return nil, fmt.Errorf("%w: object storage %q: only s3 and obs can be configured", ErrInvalid, scheme)
		}
		o, transport, err := newObjects(store, idle)
		if err != nil {
			return nil, fmt.Errorf("%w: object storage %q: %w", ErrInvalid, scheme, err)
		}
		s.backends[scheme] = o
		s.closers = append(s.closers, transport.CloseIdleConnections)
	}
	return s, nil
}

// Close ends idle connections, and closes what is kept open. Calls in progress go on.
func (s *Storage) Close() {
	for _, c := range s.closers {
		c()
	}
}

// List yields what is in a folder and in the folders below it, in the order of the keys' bytes, beginning
// behind the key after (""; from the start). A folder that isn't there is empty. The first error is the
// last pair. Symbolic links, and objects that stand for folders, are left out.
func (s *Storage) List(ctx context.Context, folder URL, after string) iter.Seq2[Object, error] {
	folder = folder.Folder()
	return func(yield func(Object, error) bool) {
		b, err := s.backend(folder)
		for failed := 1; err == nil; failed++ {
			for o, fail := range b.list(ctx, folder, after) {
				if err = fail; err == nil && o.URL.Key <= after {
					err = faultf(ErrInvalid, "the storage doesn't list in the order of keys")
				}
				if err != nil {
					break
				}
				failed, after = 1, o.URL.Key
				if !yield(o, nil) {
					return
				}
			}
			if err == nil {
				return
			}
			err = explain(ctx, "list", folder, err)
			if s.again(ctx, err, failed) {
				err = nil
			}
		}
		yield(Object{}, explain(ctx, "list", folder, err))
	}
}

// Empty reports whether a folder holds nothing.
func (s *Storage) Empty(ctx context.Context, folder URL) (bool, error) {
	for _, err := range s.List(ctx, folder, "") {
		return false, err
	}
	return true, nil
}

// Read opens an object. The reader ends with io.EOF only after all of the object that was described; the
// caller closes it. What fails while it is read isn't tried again here.
func (s *Storage) Read(ctx context.Context, u URL, opts ReadOptions) (io.ReadCloser, Object, error) {
	var body io.ReadCloser
	var object Object
	err := s.try(ctx, "read", u, func(b backend) error {
		var err error
		if body, object, err = b.read(ctx, u); err != nil {
			return err
		}
		switch {
		case opts.IfETag != "" && object.ETag != opts.IfETag:
			err = faultf(ErrChanged, "it isn't what was listed")
		case opts.Limit > 0 && object.Size > opts.Limit:
			err = faultf(ErrTooLarge, "it has %d bytes, %d are allowed", object.Size, opts.Limit)
		}
		if err != nil {
			return errors.Join(err, body.Close())
		}
		return nil
	})
	if err != nil {
		return nil, Object{}, err
	}
	return &checked{ctx: ctx, src: body, object: object, limit: opts.Limit}, object, nil
}

// Stat describes an object.
func (s *Storage) Stat(ctx context.Context, u URL) (Object, error) {
	var object Object
	err := s.try(ctx, "stat", u, func(b backend) (err error) {
		object, err = b.stat(ctx, u)
		return err
	})
	return object, err
}

// Write puts size bytes of r under a name, in place of what was there: readers see the one or the other
// whole, and after an error either. After a nil error it survives a power failure as far as the storage does.
func (s *Storage) Write(ctx context.Context, u URL, r io.ReaderAt, size int64) error {
	return s.write(ctx, u, r, size, true)
}

// WriteUnsynced is Write for one of many: in a directory it survives a power failure only after Sync. A name that is new
// there may hold less until it returns nil, and for good when it doesn't: what was there before is replaced as a whole.
func (s *Storage) WriteUnsynced(ctx context.Context, u URL, r io.ReaderAt, size int64) error {
	return s.write(ctx, u, r, size, false)
}

// Sync has everything survive a power failure that was written unsynced to the file system of a folder that exists.
func (s *Storage) Sync(ctx context.Context, folder URL) error {
	folder = folder.Folder()
	b, err := s.backend(folder)
	if err == nil {
		err = b.sync(ctx, folder)
	}
	return explain(ctx, "sync", folder, err)
}

func (s *Storage) write(ctx context.Context, u URL, r io.ReaderAt, size int64, sync bool) error {
	return s.try(ctx, "write", u, func(b backend) error {
		if size < 0 {
			return faultf(ErrInvalid, "a size of %d bytes; give the size of the content", size)
		}
		if n, err := r.ReadAt(make([]byte, min(size, 1)), max(size-1, 0)); int64(n) < min(size, 1) {
			return faultf(ErrInvalid, "the content has fewer than the %d bytes announced: %v", size, err)
		}
		return b.write(ctx, u, r, size, sync)
	})
}

// Delete removes an object; one that isn't there is no error.
func (s *Storage) Delete(ctx context.Context, u URL) error {
	err := s.try(ctx, "delete", u, func(b backend) error { return b.remove(ctx, u) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// try calls fn until it ends otherwise than with ErrTemporary, or the attempts are used up.
func (s *Storage) try(ctx context.Context, op string, u URL, fn func(backend) error) error {
	b, err := s.backend(u)
	if err == nil && u.IsFolder() && u.Scheme != HTTPS {
		err = faultf(ErrInvalid, "it names a folder; name one file")
	}
	if err != nil {
		return explain(ctx, op, u, err)
	}
	for failed := 1; ; failed++ {
		err := ctx.Err()
		if err == nil {
			err = fn(b)
		}
		err = explain(ctx, op, u, err)
		if !s.again(ctx, err, failed) {
			return err
		}
	}
}

func (s *Storage) backend(u URL) (backend, error) {
	if b := s.backends[u.Scheme]; b != nil {
		return b, nil
	}
	return nil, faultf(ErrInvalid, "no object storage is configured for %s://; configure one", strings.ToLower(u.Scheme))
}

// again waits before the next attempt, longer each time and by chance, and reports whether there is one.
func (s *Storage) again(ctx context.Context, err error, failed int) bool {
	if !errors.Is(err, ErrTemporary) || failed >= s.attempts {
		return false
	}
	wait := min(200*time.Millisecond<<min(failed-1, 10), 5*time.Second)
	timer := time.NewTimer(wait/2 + rand.N(wait/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// checked is a body that is whole, or fails.
type checked struct {
	ctx    context.Context
	src    io.ReadCloser
	object Object
	limit  int64
	n      int64
	err    error
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.src.Read(p)
	c.n += int64(n)
	switch {
	case c.limit > 0 && c.n > c.limit:
		n -= int(c.n - c.limit)
		err = faultf(ErrTooLarge, "it has more than the %d bytes that are allowed", c.limit)
	case errors.Is(err, io.EOF) && c.object.Size >= 0 && c.n != c.object.Size:
		err = faultf(ErrTemporary, "it ended after %d of %d bytes", c.n, c.object.Size)
	}
	if err != nil && (err != io.EOF) { //nolint:errorlint // a reader's end is io.EOF itself
		err = explain(c.ctx, "read", c.object.URL, err)
	}
	c.err = err
	return n, err
}

func (c *checked) Close() error { return c.src.Close() }
