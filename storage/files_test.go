package storage_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/storage"
)

// openDirs returns a storage of one directory, which it names as a URL, and the directory above.
func openDirs(t *testing.T) (*storage.Storage, storage.URL, string) {
	t.Helper()
	above := t.TempDir()
	if err := os.Mkdir(filepath.Join(above, "jobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	return open(t, storage.Config{Dirs: []string{above + "/jobs/"}}), parse(t, "file://"+above+"/jobs/"), above
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheOperatorsDirectories(t *testing.T) {
	s, root, above := openDirs(t)
	writeFile(t, above+"/outside", "x")
	if err := os.Mkdir(above+"/jobs2", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{above + "/outside", above + "/jobs2/x", "/etc/passwd"} {
		u := parse(t, "file://"+name)
		_, err := read(t.Context(), s, u, storage.ReadOptions{})
		wantError(t, err, storage.ErrDenied)
		wantError(t, err, storage.ErrForbidden)
		wantError(t, s.Write(t.Context(), u, strings.NewReader("y"), 1), storage.ErrDenied)
		wantError(t, s.Delete(t.Context(), u), storage.ErrDenied)
		_, err = s.Empty(t.Context(), u)
		wantError(t, err, storage.ErrDenied)
	}

	for link, target := range map[string]string{"file": "../outside", "absolute": above + "/outside", "dir": "../jobs2", "within": "real"} {
		if err := os.Symlink(target, filepath.Join(above, "jobs", link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s, join(t, root, "real"), "inside")
	for _, name := range []string{"file", "absolute"} {
		_, err := read(t.Context(), s, join(t, root, name), storage.ReadOptions{})
		wantError(t, err, storage.ErrForbidden)
	}
	wantError(t, s.Write(t.Context(), join(t, root, "dir/x"), strings.NewReader("y"), 1), storage.ErrDenied)
	_, err := s.Empty(t.Context(), join(t, root, "dir/"))
	wantError(t, err, storage.ErrDenied)
	wantContent(t, s, join(t, root, "within"), "inside")
	if got := list(t, s, root, ""); !slices.Equal(got, []string{"real"}) {
		t.Errorf("listed %q", got)
	}
	// Writing replaces a link, and not what it leads to.
	write(t, s, join(t, root, "file"), "replaced")
	if content, err := os.ReadFile(above + "/outside"); err != nil || string(content) != "x" {
		t.Errorf("outside: %q, error %v", content, err)
	}
}

func TestNoRegularFile(t *testing.T) {
	s, root, above := openDirs(t)
	if err := syscall.Mkfifo(above+"/jobs/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, s, join(t, root, "folder/x"), "x")
	for _, name := range []string{"fifo", "folder", "folder/x/y"} {
		_, err := read(t.Context(), s, join(t, root, name), storage.ReadOptions{})
		wantError(t, err, storage.ErrInvalid)
	}
	wantError(t, s.Write(t.Context(), join(t, root, "folder"), strings.NewReader("y"), 1), storage.ErrInvalid)
	wantError(t, s.Write(t.Context(), join(t, root, "folder/x/y"), strings.NewReader("y"), 1), storage.ErrInvalid)
	wantError(t, s.Write(t.Context(), join(t, root, strings.Repeat("n", 300)), strings.NewReader("y"), 1), storage.ErrInvalid)
	wantError(t, s.Delete(t.Context(), join(t, root, "folder")), storage.ErrInvalid)
	if got := list(t, s, root, ""); !slices.Equal(got, []string{"folder/x"}) {
		t.Errorf("listed %q", got)
	}
	wantClean(t, above)
}

// wantClean checks that no unfinished file is left.
func wantClean(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, ".drover-unfinished-") {
			t.Errorf("%s was left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnfinishedFilesAreNoObjects(t *testing.T) {
	s, root, above := openDirs(t)
	writeFile(t, above+"/jobs/.drover-unfinished-x", "half")
	writeFile(t, above+"/jobs/.hidden", "x")
	if got := list(t, s, root, ""); !slices.Equal(got, []string{".hidden"}) {
		t.Errorf("listed %q", got)
	}
	wantError(t, s.Write(t.Context(), join(t, root, ".drover-unfinished-y"), strings.NewReader("y"), 1), storage.ErrInvalid)
}

func TestFileChangesWhileItIsRead(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"longer":  func(path string) error { return appendTo(path, "more") },
		"shorter": func(path string) error { return os.Truncate(path, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			s, root, above := openDirs(t)
			write(t, s, join(t, root, "x"), "content")
			body, _, err := s.Read(t.Context(), join(t, root, "x"), storage.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if _, err := io.ReadFull(body, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if err := change(above + "/jobs/x"); err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(body)
			wantError(t, err, storage.ErrChanged)
			_, again := body.Read(make([]byte, 1))
			wantError(t, again, storage.ErrChanged)
		})
	}
	// Who opened what is replaced reads all of the old one.
	s, root, _ := openDirs(t)
	write(t, s, join(t, root, "x"), "old")
	body, _, err := s.Read(t.Context(), join(t, root, "x"), storage.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	write(t, s, join(t, root, "x"), "newer")
	if got, err := io.ReadAll(body); err != nil || string(got) != "old" {
		t.Errorf("read %q, error %v", got, err)
	}
}

func appendTo(path, content string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

func TestDirectoryIsNotThere(t *testing.T) {
	s, root, above := openDirs(t)
	if err := os.Remove(above + "/jobs"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Empty(t.Context(), root)
	wantError(t, err, storage.ErrNotFound)
	wantError(t, s.Write(t.Context(), join(t, root, "x"), strings.NewReader("x"), 1), storage.ErrNotFound)
	if err := os.Mkdir(above+"/jobs", 0o755); err != nil { // as a mount that comes late
		t.Fatal(err)
	}
	write(t, s, join(t, root, "x"), "x")
}

// A folder is kept open for a moment; what happens to it meanwhile must lose nothing.
func TestFolderIsAnotherOne(t *testing.T) {
	s, root, above := openDirs(t)
	folder, x, y := above+"/jobs/a/b", join(t, root, "a/b/x"), join(t, root, "a/b/y")
	write(t, s, x, "x")
	wantContent(t, s, x, "x")
	if err := os.RemoveAll(above + "/jobs/a"); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.Read(t.Context(), x, storage.ReadOptions{})
	wantError(t, err, storage.ErrNotFound)
	write(t, s, y, "y") // makes the folder anew
	if got, err := os.ReadFile(folder + "/y"); err != nil || string(got) != "y" {
		t.Errorf("read %q, error %v", got, err)
	}
	if err := errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o755)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, folder+"/x", "new")
	wantContent(t, s, x, "new")
	// A link out of its folder stays within the operator's directory, or isn't followed.
	writeFile(t, above+"/jobs/beside", "beside")
	writeFile(t, above+"/outside", "outside")
	if err := errors.Join(os.Symlink("../../beside", folder+"/in"), os.Symlink("../../../outside", folder+"/out")); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, join(t, root, "a/b/in"), "beside")
	_, _, err = s.Read(t.Context(), join(t, root, "a/b/out"), storage.ReadOptions{})
	wantError(t, err, storage.ErrForbidden)
}

// Open folders are bounded, and closed after a while.
func TestManyFolders(t *testing.T) {
	s, root, above := openDirs(t)
	open := func() (n int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, above+"/") {
				n++
			}
		}
		return n
	}
	for i := range 200 {
		write(t, s, join(t, root, strconv.Itoa(i)+"/x"), "x")
	}
	if n := open(); n == 0 || n > 64 {
		t.Errorf("%d folders are open", n)
	}
	for deadline := time.Now().Add(10 * time.Second); open() > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d folders are still open", open())
		}
	}
}

func TestFullDisk(t *testing.T) {
	s, root, above := openDirs(t)
	if err := syscall.Mount("tmpfs", above+"/jobs", "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("SKIPPED: a small file system can't be mounted, which needs root: %v", err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := syscall.Unmount(above+"/jobs", 0); err != nil {
			t.Error(err)
		}
	})
	write(t, s, join(t, root, "x"), "before")
	content := strings.Repeat("x", 1<<20)
	wantError(t, s.Write(t.Context(), join(t, root, "x"), strings.NewReader(content), 1<<20), storage.ErrFull)
	wantContent(t, s, join(t, root, "x"), "before")
	wantClean(t, above)
}

// endsContext ends a context when it is read.
type endsContext struct {
	end     context.CancelFunc
	content io.ReaderAt
}

func (e endsContext) ReadAt(p []byte, off int64) (int, error) {
	e.end()
	return e.content.ReadAt(p, off)
}

func TestWriteIsInterrupted(t *testing.T) {
	s, root, above := openDirs(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	content := endsContext{cancel, strings.NewReader(strings.Repeat("x", 1<<20))}
	wantError(t, s.Write(ctx, join(t, root, "x"), content, 1<<20), context.Canceled)
	if got := list(t, s, root, ""); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
	wantClean(t, above)
}

// A new file that needn't be durable yet is made in its place; whatever is there already is replaced as a whole.
func TestUnsyncedFiles(t *testing.T) {
	s, root, above := openDirs(t)
	u := join(t, root, "dir/x")
	unsynced := func(content io.ReaderAt, size int64) error { return s.WriteUnsynced(t.Context(), u, content, size) }
	wantError(t, unsynced(halfReader("half"), 8), storage.ErrInvalid)
	wantContent(t, s, u, "") // it may be short, until it's written again
	if err := unsynced(strings.NewReader("all of it"), 9); err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Read(t.Context(), u, storage.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	wantError(t, unsynced(halfReader("gone"), 8), storage.ErrInvalid)
	if err := unsynced(strings.NewReader("newer"), 5); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != "all of it" {
		t.Errorf("read %q, error %v", got, err)
	}
	wantContent(t, s, u, "newer")
	if err := os.Symlink("elsewhere", above+"/jobs/dir/y"); err != nil {
		t.Fatal(err)
	}
	u = join(t, root, "dir/y")
	if err := unsynced(strings.NewReader("no link"), 7); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(above + "/jobs/dir/y"); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, error %v", info, err)
	}
	wantClean(t, above)
}

// halfReader has its last byte, which is looked at first, but not all before it.
type halfReader string

func (h halfReader) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		return len(p), nil
	}
	return copy(p, h), io.EOF
}
