package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/drover-fleet/drover/runtime"
)

// Stats reads the kernel's files alone: it works while containerd is away and costs no call to a shim.
func (r *Runtime) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	if err := ctx.Err(); err != nil {
		return runtime.Stats{}, err
	}
	rec, ok := r.records.get(id)
	if !ok || rec.Pid == 0 {
		return runtime.Stats{}, fmt.Errorf("stats of %s: %w", id, runtime.ErrNotFound)
	}
	s, err := r.cgroups.stats(id)
	if errors.Is(err, fs.ErrNotExist) {
		return runtime.Stats{}, fmt.Errorf("stats of %s: %w: it does not run", id, runtime.ErrNotFound)
	}
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("stats of %s: %w", id, err)
	}
	if !rec.Host {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", rec.Pid)); err == nil {
			s.NetReceiveBytes, s.NetTransmitBytes = parseNetDev(string(raw), "eth0")
		}
	}
	if rec.LogDir != "" {
		s.LogDroppedLines = droppedLines(rec.LogDir)
	}
	return s, nil
}

// parseNetDev finds an interface's received and sent bytes in /proc/<pid>/net/dev.
func parseNetDev(text, name string) (received, sent *uint64) {
	for line := range strings.Lines(text) {
		at, values, ok := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(values)
		if !ok || at != name || len(fields) < 9 {
			continue
		}
		in, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return nil, nil
		}
		out, err := strconv.ParseUint(fields[8], 10, 64)
		if err != nil {
			return nil, nil
		}
		return &in, &out
	}
	return nil, nil
}
