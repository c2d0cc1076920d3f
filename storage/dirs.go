package storage

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// ProjectMark stands for the name of a project in the operator's directories: "/srv/jobs/{project}".
const ProjectMark = "{project}"

// ProjectDirs are the directories that a project may use: those that name no project, and its own ones. Without a
// project's name there are none of the latter.
func ProjectDirs(dirs []string, project string) []string {
	var out []string
	for _, d := range dirs {
		switch {
		case !strings.Contains(d, ProjectMark):
			out = append(out, d)
		case project != "" && project != "." && project != ".." && !strings.Contains(project, "/"):
			out = append(out, strings.ReplaceAll(d, ProjectMark, project))
		}
	}
	return out
}

// CheckDirs refuses directories of projects that other projects could reach through another one of the directories.
func CheckDirs(dirs []string) error {
	for _, d := range dirs {
		above, marked := projectsIn(d)
		if !marked {
			continue
		}
		if slices.ContainsFunc(strings.Split(d, "/"), func(s string) bool { return s != ProjectMark && strings.Contains(s, ProjectMark) }) {
			return fmt.Errorf("%w: in storage directory %q, %s is part of a name; make it a directory of its own, such as /srv/jobs/%s", ErrInvalid, d, ProjectMark, ProjectMark)
		}
		for _, other := range dirs {
			beside, also := projectsIn(other)
			if also && beside == above {
				continue
			}
			if strings.HasPrefix(above, beside) || strings.HasPrefix(beside, above) {
				return fmt.Errorf("%w: storage directory %q would open those of %q to other projects; keep one of them elsewhere", ErrInvalid, other, d)
			}
		}
	}
	return nil
}

// projectsIn answers the directory that holds those of projects, or the directory itself when it names none; with a "/"
// at its end.
func projectsIn(dir string) (above string, marked bool) {
	dir = strings.TrimSuffix(filepath.Clean(dir), "/") + "/"
	above, _, marked = strings.Cut(dir, ProjectMark)
	return above, marked
}
