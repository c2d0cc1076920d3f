package attach

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/drover-fleet/drover/devices"
)

const (
	fakeKind  = "drover/fake"
	fakeFile  = "fake.json"
	fakeNodes = "fake"
	// fakeMajor is among the character device numbers that Linux leaves to local use: no driver answers.
	fakeMajor  = 60
	fakeMinors = 256
)

// fake answers the edits for made-up devices. Minor numbers are given as devices are first asked for; the nodes in our
// directory keep them over restarts.
func (a *Attacher) fake(list []devices.Device) (*cdi.ContainerEdits, error) {
	minors, err := a.fakeMinors()
	if err != nil {
		return nil, err
	}
	var targets []target
	for _, d := range list {
		name := fakeName(d.ID)
		if _, known := minors[name]; !known {
			minor, err := a.makeFake(name, minors)
			if err != nil {
				return nil, fmt.Errorf("device %s: %w", d.ID, err)
			}
			minors[name] = minor
		}
		targets = append(targets, target{id: strconv.FormatUint(uint64(minors[name]), 10)})
	}
	mode := os.FileMode(0o666) // whatever the umask was
	spec := &cdispecs.Spec{Version: "0.6.0", Kind: fakeKind}
	for minor := range uint32(fakeMinors) { // in order, so that the file changes with the devices alone
		for name, m := range minors {
			if m == minor {
				spec.Devices = append(spec.Devices, cdispecs.Device{
					Name: strconv.FormatUint(uint64(minor), 10),
					ContainerEdits: cdispecs.ContainerEdits{DeviceNodes: []*cdispecs.DeviceNode{{
						Path: fmt.Sprintf("/dev/fake%d", minor), HostPath: filepath.Join(a.cfg.Dir, fakeNodes, name), Permissions: "rw", FileMode: &mode,
					}}},
				})
			}
		}
	}
	if err := a.write(fakeFile, spec); err != nil {
		return nil, err
	}
	edits, lacks, err := a.resolve(a.own, fakeKind, targets, ownership{})
	if lacks != "" {
		err = fmt.Errorf("fake device number %s is not in %s", lacks, a.own.searched())
	}
	return edits, err
}

// fakeName answers the file name of a device's node: safe whatever the ID is.
func fakeName(id string) string { return "device-" + url.PathEscape(id) }

// fakeMinors answers the numbers given so far, by file name.
func (a *Attacher) fakeMinors() (map[string]uint32, error) {
	dir := filepath.Join(a.cfg.Dir, fakeNodes)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list fake devices: %w", err)
	}
	minors := map[string]uint32{}
	for _, entry := range entries {
		var st unix.Stat_t
		path := filepath.Join(dir, entry.Name())
		if err := unix.Lstat(path, &st); err != nil {
			return nil, fmt.Errorf("list fake devices: %s: %w", path, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != fakeMajor {
			return nil, fmt.Errorf("list fake devices: %s is not a node of ours: remove it", path)
		}
		minors[entry.Name()] = unix.Minor(st.Rdev)
	}
	return minors, nil
}

// makeFake makes a node with the lowest number that none has.
func (a *Attacher) makeFake(name string, minors map[string]uint32) (uint32, error) {
	used := map[uint32]bool{}
	for _, m := range minors {
		used[m] = true
	}
	for minor := range uint32(fakeMinors) {
		if used[minor] {
			continue
		}
		path := filepath.Join(a.cfg.Dir, fakeNodes, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(fakeMajor, minor))); err != nil {
			return 0, fmt.Errorf("make node %s: %w", path, err)
		}
		return minor, nil
	}
	return 0, fmt.Errorf("all %d numbers of fake devices are taken: remove nodes below %s", fakeMinors, filepath.Join(a.cfg.Dir, fakeNodes))
}
