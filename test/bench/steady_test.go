//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	steadyServices = 8
	steadyEach     = fleetNodes * devicesPerNode / steadyServices
	steadyTime     = 20 * time.Second
	settleTime     = 10 * time.Second // for the garbage of what was done before
	bareNodes      = 5000
)

// steady measures a fleet in which nothing changes.
func (b *bench) steady() {
	b.registered()
	c := b.newCluster(1)
	c.prepare()
	c.connect(fleetNodes)
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	for i := range steadyServices {
		b.must(c.deploy(ctx, fmt.Sprint("steady-", i), steadyEach))
	}
	b.must(await(ctx, "acknowledged", steadyServices*steadyEach, 10*time.Millisecond, c.agents.running.Load))
	what := fmt.Sprintf("steady, %d nodes, %d devices, %d instances: ", fleetNodes, fleetNodes*devicesPerNode, steadyServices*steadyEach)
	time.Sleep(settleTime)
	used, err := cpuTime(c.leader.pid())
	b.must(err)
	start := time.Now()
	time.Sleep(steadyTime)
	after, err := cpuTime(c.leader.pid())
	b.must(err)
	b.report.add(figure{Name: what + fmt.Sprintf("processor, over %v", steadyTime), Unit: "% of a core",
		Measured: one(100 * float64(after-used) / float64(time.Since(start))), Goal: &goal{AtMost: 15}, N: 1})
	b.resident(what+"resident memory, with all agents connected", c, nil)
	c.stop()
	b.snapshot(what, c)
	start = time.Now()
	c.start()
	b.report.add(figure{Name: what + "start until the scheduler leads", Unit: "s", Measured: one(time.Since(start).Seconds()), Goal: &goal{AtMost: 5}, N: 1})
	time.Sleep(settleTime)
	b.resident(what+"resident memory without transport, after a restart", c, &goal{AtMost: 512})
	c.stop()
}

// resident adds how much memory the leader has.
func (b *bench) resident(name string, c *cluster, g *goal) float64 {
	bytes, _, err := memory(c.leader.pid())
	b.must(err)
	b.report.add(figure{Name: name, Unit: "MiB", Measured: one(mib(bytes)), Goal: g, N: 1})
	return float64(bytes)
}

// registered measures nodes with nothing on them, and their streams.
func (b *bench) registered() {
	c := b.newCluster(1)
	c.connect(bareNodes)
	c.stop()
	c.start() // without what registering has left behind
	what := fmt.Sprintf("%d nodes with nothing on them: ", bareNodes)
	time.Sleep(settleTime)
	without := b.resident(what+"resident memory without transport", c, &goal{AtMost: 100})
	c.connect(bareNodes)
	time.Sleep(settleTime)
	with := b.resident(what+"resident memory with a stream of each", c, nil)
	b.report.add(figure{Name: what + "memory of a stream", Unit: "KiB", Measured: one((with - without) / 1024 / bareNodes), Goal: &goal{AtMost: 60}, N: bareNodes})
	c.stop()
}

// snapshot measures starting from the log, and making a snapshot of a scheduler that doesn't run.
func (b *bench) snapshot(what string, c *cluster) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	start := time.Now()
	s, err := openLog(c.cfgs[0], false)
	b.must(err)
	b.must(lead(ctx, s))
	b.report.add(figure{Name: what + "reading what the run has left of log and snapshots", Unit: "s", Measured: one(time.Since(start).Seconds()), N: 1})
	start = time.Now()
	b.must(s.Snapshot(ctx))
	b.report.add(figure{Name: what + "a snapshot", Unit: "s", Measured: one(time.Since(start).Seconds()), N: 1})
	b.must(s.Close())
	var newest os.FileInfo
	files, err := filepath.Glob(filepath.Join(c.cfgs[0].DataDir, "raft", "snapshots", "*", "state.bin"))
	b.must(err)
	for _, path := range files {
		info, err := os.Stat(path)
		b.must(err)
		if newest == nil || info.ModTime().After(newest.ModTime()) {
			newest = info
		}
	}
	if newest == nil {
		b.t.Fatal("there is no snapshot")
	}
	b.report.add(figure{Name: what + "size of a snapshot", Unit: "MiB", Measured: one(mib(newest.Size())), N: 1})
}
