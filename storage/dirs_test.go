package storage_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/storage"
)

func TestProjectsHaveDirectoriesOfTheirOwn(t *testing.T) {
	above := t.TempDir()
	for _, project := range []string{"a", "ab"} {
		if err := os.Mkdir(above+"/"+project, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, above+"/"+project+"/x", project)
	}
	dirs := []string{above + "/{project}"}
	s := open(t, storage.Config{Dirs: storage.ProjectDirs(dirs, "a")})
	wantContent(t, s, parse(t, "file://"+above+"/a/x"), "a")

	// Neither by name nor by a symbolic link, which a job's container may have made.
	if err := os.Symlink("../ab", above+"/a/link"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/ab/x", "/a/link/x", "/{project}/x", "/x"} {
		u := parse(t, "file://"+above+name)
		_, err := read(t.Context(), s, u, storage.ReadOptions{})
		wantError(t, err, storage.ErrDenied)
		wantError(t, s.Write(t.Context(), u, strings.NewReader("y"), 1), storage.ErrDenied)
	}

	_, err := s.Empty(t.Context(), parse(t, "file://"+above+"/ab/"))
	if want := "; use one of them: " + above + "/a"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error %v, want it to end in %q", err, want)
	}
	_, err = open(t, storage.Config{Dirs: storage.ProjectDirs(dirs, "")}).Empty(t.Context(), parse(t, "file://"+above+"/a/"))
	wantError(t, err, storage.ErrForbidden)

	// A project whose directory nobody has made is told which one that is.
	s = open(t, storage.Config{Dirs: storage.ProjectDirs(dirs, "c")})
	_, err = s.Empty(t.Context(), parse(t, "file://"+above+"/c/in/"))
	wantError(t, err, storage.ErrNotFound)
	if want := "storage directory " + above + "/c isn't there"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %v doesn't say %q", err, want)
	}
}

func TestProjectDirs(t *testing.T) {
	dirs := []string{"/mnt/all", "/srv/{project}/jobs"}
	for project, want := range map[string][]string{
		"a": {"/mnt/all", "/srv/a/jobs"}, "": {"/mnt/all"}, "..": {"/mnt/all"}, ".": {"/mnt/all"}, "a/../b": {"/mnt/all"},
	} {
		if got := storage.ProjectDirs(dirs, project); !slices.Equal(got, want) {
			t.Errorf("project %q has %q, want %q", project, got, want)
		}
	}
}

func TestCheckDirs(t *testing.T) {
	for _, dirs := range [][]string{nil, {"/srv/jobs", "/srv/jobs/sub"}, {"/srv/jobs/{project}", "/srv/shared", "/srv/jobs2"},
		{"/srv/{project}/a", "/srv/{project}/b/"}} {
		if err := storage.CheckDirs(dirs); err != nil {
			t.Errorf("%q: %v", dirs, err)
		}
	}
	for _, dirs := range [][]string{{"/srv/p-{project}"}, {"/srv/{project}", "/srv"}, {"/srv/", "/srv/{project}"}, {"/srv/{project}", "/srv/all"},
		{"/srv/{project}", "/srv/jobs/{project}"}, {"/srv/{project}", "/"}} {
		if err := storage.CheckDirs(dirs); !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), ";") {
			t.Errorf("%q: error %v, want one that says what to do", dirs, err)
		}
	}
}
