//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/PID/stat on Linux (USER_HZ).
const tick = 10 * time.Millisecond

// cpuTime is what a process has used, itself and in the kernel.
func cpuTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest) // from the third of proc(5)
	if !found || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is not understood: %q", pid, raw)
	}
	var total time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		total += time.Duration(n) * tick
	}
	return total, nil
}

// memory answers resident and proportional bytes: the latter counts shared pages by share.
func memory(pid int) (resident, proportional int64, err error) {
	if resident, err = kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:"); err != nil {
		return 0, 0, err
	}
	proportional, err = kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
	return resident, proportional, err
}

func kilobytes(path, key string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == key && fields[2] == "kB" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}

// census counts the processes of this mount namespace by what they are.
type census struct{ shims, loggers, others int }

func count() (census, error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return census{}, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return census{}, err
	}
	var c census
	for _, dir := range dirs {
		if ns, err := os.Readlink(dir + "/ns/mnt"); err != nil || ns != own {
			continue // another's, or it ended meanwhile
		}
		raw, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(raw) == 0 {
			continue // it ends just now
		}
		args := strings.Split(string(raw), "\x00")
		switch {
		case strings.HasPrefix(filepath.Base(args[0]), "containerd-shim"):
			c.shims++
		case len(args) > 1 && args[1] == "logger":
			c.loggers++
		default:
			c.others++
		}
	}
	return c, nil
}
