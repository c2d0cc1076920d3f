package containerd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime"
)

// cgroups reads the control groups of containers, below one parent, in a version 1 or 2 hierarchy.
type cgroups struct {
	root, parent string
	v2           bool
	swap         bool // the kernel accounts for swap
}

func findCgroups(root, parent string) cgroups {
	c := cgroups{root: root, parent: parent}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		c.v2, c.swap = true, true
	} else if _, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes")); err == nil {
		c.swap = true
	}
	return c
}

// path of a container in every hierarchy, as the OCI specification gives it.
func (c cgroups) path(id string) string { return filepath.Join(c.parent, id) }

// dir of a container in the hierarchy of a version 1 controller; version 2 has but one.
func (c cgroups) dir(controller, id string) string {
	if c.v2 {
		return filepath.Join(c.root, c.path(id))
	}
	return filepath.Join(c.root, controller, c.path(id))
}

// oomKills counts the processes that were killed because the container reached its memory limit; 0
// when its group is gone.
func (c cgroups) oomKills(id string) uint64 {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	values, err := readKeys(filepath.Join(c.dir("memory", id), file))
	if err != nil {
		return 0
	}
	return values["oom_kill"]
}

// stats measures a container. What the kernel does not offer stays nil; a group that is gone is
// fs.ErrNotExist.
func (c cgroups) stats(id string) (runtime.Stats, error) {
	s := runtime.Stats{Time: time.Now()}
	var err error
	if c.v2 {
		err = c.statsV2(id, &s)
	} else {
		err = c.statsV1(id, &s)
	}
	return s, err
}

func (c cgroups) statsV1(id string, s *runtime.Stats) error {
	cpu, err := readNumber(filepath.Join(c.dir("cpuacct", id), "cpuacct.usage"))
	if err != nil {
		return err
	}
	s.CPUNanos = &cpu
	memory := c.dir("memory", id)
	if err := readMemory(s, filepath.Join(memory, "memory.usage_in_bytes"), filepath.Join(memory, "memory.stat"), "total_inactive_file", filepath.Join(memory, "memory.limit_in_bytes")); err != nil {
		return err
	}
	if err := optional(&s.Pids, filepath.Join(c.dir("pids", id), "pids.current")); err != nil {
		return err
	}
	return readBlkio(s, filepath.Join(c.dir("blkio", id), "blkio.throttle.io_service_bytes"))
}

func (c cgroups) statsV2(id string, s *runtime.Stats) error {
	dir := c.dir("", id)
	cpu, err := readKeys(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	nanos := cpu["usage_usec"] * 1000
	s.CPUNanos = &nanos
	if err := readMemory(s, filepath.Join(dir, "memory.current"), filepath.Join(dir, "memory.stat"), "inactive_file", filepath.Join(dir, "memory.max")); err != nil {
		return err
	}
	if err := optional(&s.Pids, filepath.Join(dir, "pids.current")); err != nil {
		return err
	}
	return readIOStat(s, filepath.Join(dir, "io.stat"))
}

func readMemory(s *runtime.Stats, usage, stat, inactive, limit string) error {
	used, err := readNumber(usage)
	if err != nil {
		return err
	}
	values, err := readKeys(stat)
	if err != nil {
		return err
	}
	used -= min(used, values[inactive])
	s.MemoryBytes = &used
	if max, err := readNumber(limit); err == nil && max < 1<<60 { // more means none
		s.MemoryLimit = &max
	}
	return nil
}

// optional reads a number that an unlimited kernel may not offer.
func optional(into **uint64, path string) error {
	n, err := readNumber(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	*into = &n
	return nil
}

// readBlkio sums lines like "8:0 Read 4096".
func readBlkio(s *runtime.Stats, path string) error {
	return eachLine(path, func(fields []string) {
		if len(fields) != 3 {
			return
		}
		switch fields[1] {
		case "Read":
			addTo(&s.DiskReadBytes, fields[2])
		case "Write":
			addTo(&s.DiskWriteBytes, fields[2])
		}
	}, &s.DiskReadBytes, &s.DiskWriteBytes)
}

// readIOStat sums lines like "8:0 rbytes=4096 wbytes=0 rios=1".
func readIOStat(s *runtime.Stats, path string) error {
	return eachLine(path, func(fields []string) {
		for _, field := range fields {
			key, value, _ := strings.Cut(field, "=")
			switch key {
			case "rbytes":
				addTo(&s.DiskReadBytes, value)
			case "wbytes":
				addTo(&s.DiskWriteBytes, value)
			}
		}
	}, &s.DiskReadBytes, &s.DiskWriteBytes)
}

func addTo(sum **uint64, value string) {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		**sum += n
	}
}

// eachLine calls fn with the words of each line; zero sets sums to 0 when the file exists.
func eachLine(path string, fn func([]string), zero ...**uint64) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	defer file.Close()
	for _, sum := range zero {
		*sum = new(uint64)
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fn(strings.Fields(lines.Text()))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	return nil
}

func readNumber(path string) (uint64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read usage: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return 1 << 63, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read usage: %s: %w", path, err)
	}
	return n, nil
}

func readKeys(path string) (map[string]uint64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	values := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values, nil
}

// remove kills what is left in a container's groups and removes them.
func (c cgroups) remove(id string) error {
	var errs []error
	for _, dir := range c.dirs(id) {
		if err := removeGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dirs answers the directories of a container that exist.
func (c cgroups) dirs(id string) []string {
	pattern := filepath.Join(c.root, "*", c.path(id))
	if c.v2 {
		pattern = filepath.Join(c.root, c.path(id))
	}
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return nil // an ID holds no pattern
	}
	return dirs
}

// removeGroup waits for killed processes to leave, at most two seconds.
func removeGroup(dir string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) || wait > time.Second {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		if err := killGroup(dir); err != nil {
			return err
		}
		time.Sleep(wait)
	}
}

func killGroup(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read cgroup: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid <= 1 {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d of %s: %w", pid, dir, err)
		}
	}
	return nil
}
