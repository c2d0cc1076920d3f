package raftstore

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// BenchmarkWrites measures acknowledged writes of 256 bytes, each writer waiting for the answer to one before it sends the
// next, with all voters in one process and on one disk: by Propose, where each writer updates an object of its own, and by a
// bare Raft with the same log and settings, whose state machine does nothing.
func BenchmarkWrites(b *testing.B) {
	for _, voters := range []int{1, 3} {
		for _, writers := range []int{1, 64, 256} {
			for _, kind := range []string{"drover", "bare"} {
				b.Run(fmt.Sprintf("voters=%d/writers=%d/%s", voters, writers, kind), func(b *testing.B) {
					var write func(writer int) error
					if kind == "bare" {
						write = bareCluster(b, voters)
					} else {
						write = proposals(b, voters, writers)
					}
					measureWrites(b, writers, write)
				})
			}
		}
	}
}

const writeSize = 256

func measureWrites(b *testing.B, writers int, write func(writer int) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	b.ReportAllocs()
	before := processorTime(b)
	b.ResetTimer()
	for w := range writers {
		all.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := write(w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func writeConfig(b *testing.B) Config {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Addr, cfg.Logger = b.TempDir(), "127.0.0.1:0", slog.New(slog.DiscardHandler)
	return cfg
}

// proposals writes through Stores.
func proposals(b *testing.B, voters, writers int) func(writer int) error {
	var leader *Store
	for i := range voters {
		cfg := writeConfig(b)
		cfg.Bootstrap = i == 0
		s, _ := mustOpen(b, cfg, nil)
		if leader == nil {
			leader = s
			awaitLeader(b, s)
		} else if err := leader.AddVoter(testContext(b), s.ID(), s.Addr()); err != nil {
			b.Fatal(err)
		}
	}
	commands := make([]*fleetv1.Command, writers)
	for w := range commands {
		commands[w] = &fleetv1.Command{
			Time: &timestamppb.Timestamp{Seconds: 1_700_000_000}, Introduced: 1,
			Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Flavor{
				Meta: &fleetv1.Meta{Name: fmt.Sprint("flavor-", w), Id: "0b0e2c6e-6a0e-4d3c-9b7e-000000000000", Project: fleetv1.Default, CreatedBy: strings.Repeat("a", 150)},
				Spec: &fleetv1.FlavorSpec{CpuMillis: 4000, MemoryBytes: 8 << 30},
			})}}},
		}
		if n := proto.Size(commands[w]); n > writeSize || n < writeSize-16 {
			b.Fatalf("a command has %d bytes", n)
		}
	}
	return func(w int) error {
		r, err := leader.Propose(b.Context(), commands[w])
		if err == nil && len(r.Rejections) > 0 {
			err = fmt.Errorf("rejected: %v", r.Rejections)
		}
		commands[w].GetWrite().GetMutations()[0].ExpectRevision = r.Index
		return err
	}
}

type noopFSM struct{}

func (noopFSM) Apply(*raft.Log) any                 { return nil }
func (noopFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }
func (noopFSM) Restore(io.ReadCloser) error         { return nil }

// bareCluster writes through hashicorp/raft alone.
func bareCluster(b *testing.B, voters int) func(writer int) error {
	var leader *raft.Raft
	for i := range voters {
		cfg := writeConfig(b)
		s := newStore(cfg, nil, nil)
		s.id = fmt.Sprint("voter-", i)
		c := s.logConfig(cfg.DataDir)
		if err := createLog(c, head{ID: s.id}, nil); err != nil {
			b.Fatal(err)
		}
		var err error
		if s.logs, err = openLog(c); err != nil {
			b.Fatal(err)
		}
		trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, 10*time.Second, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		s.trans = &transport{NetworkTransport: trans} // not what Raft is given
		conf := s.raftConfig()
		snapshots, err := raft.NewFileSnapshotStoreWithLogger(filepath.Join(cfg.DataDir, "snapshots"), 1, conf.Logger)
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			if err := s.bootstrap(conf, snapshots); err != nil {
				b.Fatal(err)
			}
		}
		r, err := raft.NewRaft(conf, noopFSM{}, s.logs, s.logs, snapshots, trans)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := r.Shutdown().Error(); err != nil {
				b.Error(err)
			}
			s.trans.CloseStreams()
			s.stall.close()
			if err := s.logs.Close(); err != nil {
				b.Error(err)
			}
		})
		if leader == nil {
			leader = r
			<-r.LeaderCh()
		} else if err := leader.AddVoter(conf.LocalID, s.trans.LocalAddr(), 0, 10*time.Second).Error(); err != nil {
			b.Fatal(err)
		}
	}
	return func(int) error { return leader.Apply(make([]byte, writeSize), 0).Error() }
}
