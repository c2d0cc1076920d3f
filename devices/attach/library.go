package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// maxFile bounds a specification file: those of real hosts have some hundred kilobytes.
const maxFile = 8 << 20

// library holds the specification files of some directories.
type library struct {
	logger *slog.Logger
	dirs   []string // later ones win
	files  map[string]*file
	errs   map[string]error // directories that can't be listed
}

type file struct {
	info fs.FileInfo
	spec *cdi.Spec // nil when err says why
	err  error
}

func newLibrary(logger *slog.Logger, dirs ...string) *library {
	return &library{logger: logger, dirs: dirs, files: map[string]*file{}}
}

// refresh reads what has changed since the last call.
func (l *library) refresh() {
	now := map[string]*file{}
	l.errs = map[string]error{}
	for priority, dir := range l.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.errs[dir] = err
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			if ext := filepath.Ext(path); entry.IsDir() || ext != ".json" && ext != ".yaml" {
				continue
			}
			info, err := os.Stat(path)
			before := l.files[path]
			switch {
			case err != nil:
				now[path] = &file{err: err}
			case before != nil && before.info != nil && os.SameFile(info, before.info) && info.ModTime().Equal(before.info.ModTime()) && info.Size() == before.info.Size():
				now[path] = before
				continue
			default:
				now[path] = &file{info: info}
				now[path].spec, now[path].err = read(path, info, priority)
			}
			if err := now[path].err; err != nil && (before == nil || before.err == nil || before.err.Error() != err.Error()) {
				l.logger.Warn("a CDI specification can't be used", "file", path, "error", err)
			}
		}
	}
	l.files = now
}

// read parses and validates a file, and survives those with which the parser does not.
func read(path string, info fs.FileInfo, priority int) (spec *cdi.Spec, err error) {
	defer func() {
		if p := recover(); p != nil {
			spec, err = nil, fmt.Errorf("the file is malformed: %v", p)
		}
	}()
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", info.Size(), maxFile)
	}
	return cdi.ReadSpec(path, priority)
}

// find answers the device with this ID, or else the one with the target's node and no other of its vendor,
// which sole tells from nodes that all have. Nil: no file names it.
func (l *library) find(kind string, t target, sole func(path string) string) (*cdi.Device, error) {
	known := l.devices(kind)
	if list := known[t.id]; len(list) > 0 {
		return only(list)
	}
	if t.node == "" {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		list := known[name]
		var nodes []string
		for _, n := range list[0].ContainerEdits.DeviceNodes {
			if node := sole(hostPath(n)); node != "" {
				nodes = append(nodes, node)
			}
		}
		if len(nodes) == 1 && nodes[0] == t.node {
			return only(list)
		}
	}
	return nil, nil
}

// devices of a kind by name; several of one name are in files of the same priority.
func (l *library) devices(kind string) map[string][]*cdi.Device {
	known := map[string][]*cdi.Device{}
	for _, path := range slices.Sorted(maps.Keys(l.files)) {
		spec := l.files[path].spec
		if spec == nil || spec.Kind != kind {
			continue
		}
		for i := range spec.Devices {
			name := spec.Devices[i].Name
			have := known[name]
			switch {
			case len(have) == 0 || have[0].GetSpec().GetPriority() < spec.GetPriority():
				known[name] = []*cdi.Device{spec.GetDevice(name)}
			case have[0].GetSpec().GetPriority() == spec.GetPriority():
				known[name] = append(have, spec.GetDevice(name))
			}
		}
	}
	return known
}

func only(list []*cdi.Device) (*cdi.Device, error) {
	if len(list) == 1 {
		return list[0], nil
	}
	var paths []string
	for _, d := range list {
		paths = append(paths, d.GetSpec().GetPath())
	}
	return nil, fmt.Errorf("CDI device %s is in several files, %s: remove all but one", list[0].GetQualifiedName(), strings.Join(paths, " and "))
}

// searched says where a device was looked for, and what could not be read there.
func (l *library) searched() string {
	text := strings.Join(l.dirs, ", ")
	for _, dir := range slices.Sorted(maps.Keys(l.errs)) {
		text += fmt.Sprintf("; %s can't be read: %v", dir, l.errs[dir])
	}
	for _, path := range slices.Sorted(maps.Keys(l.files)) {
		if err := l.files[path].err; err != nil {
			text += fmt.Sprintf("; %s can't be used: %v", path, oneLine(err))
		}
	}
	return text
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
