package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Config is what a Store needs to know. DefaultConfig fills in all but DataDir and Addr.
type Config struct {
	// DataDir is the scheduler's data directory; the store keeps everything in "raft" below it.
	DataDir string
	// Addr is where other schedulers reach this one, "host:port"; port 0 takes a free one.
	Addr string
	// Advertise is the address told to others when it is not the one listened on.
	Advertise string
	// Stream answers what carries the schedulers' connections in place of plain TCP, for example TLS. It is given the
	// listener on Addr, and this scheduler's ID, which it may refuse. The store closes what it answers.
	Stream func(l net.Listener, id string) (StreamLayer, error)
	// Bootstrap makes this scheduler the first and only voter of a new cluster, if it has no state yet.
	Bootstrap bool
	Logger    *slog.Logger

	// A follower that hears nothing for HeartbeatTimeout stands for election. It is elected when a majority has missed the
	// leader for as long, each looking at a time of its own: about two of them after the leader's death. A leader that reaches no
	// majority for LeaderLease (less than HeartbeatTimeout) steps down.
	HeartbeatTimeout, ElectionTimeout, LeaderLease time.Duration
	// Every SnapshotInterval, a snapshot is made when more than SnapshotThreshold entries came since the
	// last one; TrailingLogs entries are kept for followers that are a little behind.
	SnapshotInterval                time.Duration
	SnapshotThreshold, TrailingLogs uint64
	// SegmentSize is that of the log's files, in bytes; one entry may make one bigger.
	SegmentSize int64
	// StallLimit is how long one write to the log may take before the store reports itself as failed.
	StallLimit time.Duration
}

// DefaultConfig is what runs in production.
func DefaultConfig() Config {
	return Config{
		Addr:              "127.0.0.1:7402",
		Logger:            slog.Default(),
		HeartbeatTimeout:  450 * time.Millisecond,
		ElectionTimeout:   450 * time.Millisecond,
		LeaderLease:       440 * time.Millisecond,
		SnapshotInterval:  2 * time.Minute,
		SnapshotThreshold: 8192,
		TrailingLogs:      4096,
		SegmentSize:       16 << 20,
		StallLimit:        5 * time.Second,
	}
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	for _, f := range []struct{ have, want *time.Duration }{
		{&c.HeartbeatTimeout, &d.HeartbeatTimeout}, {&c.ElectionTimeout, &d.ElectionTimeout},
		{&c.LeaderLease, &d.LeaderLease}, {&c.SnapshotInterval, &d.SnapshotInterval},
		{&c.StallLimit, &d.StallLimit},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	for _, f := range []struct{ have, want *uint64 }{
		{&c.SnapshotThreshold, &d.SnapshotThreshold}, {&c.TrailingLogs, &d.TrailingLogs},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = d.SegmentSize
	}
	if c.Addr == "" {
		c.Addr = d.Addr
	}
	if c.Logger == nil {
		c.Logger = d.Logger
	}
	return c
}

// StreamLayer carries the schedulers' connections.
type StreamLayer interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// EventSink keeps the events that applied commands made.
type EventSink interface {
	// Append takes the events of one index and never blocks. After a restart the same index may come
	// again with the same events.
	Append(index uint64, events []*fleetv1.Event)
	// Flush waits until everything appended up to the index is durable.
	Flush(index uint64) error
}

// ErrUnknown means that nobody knows whether the command was or will be applied. Sending it again with
// the same request ID takes effect once.
var ErrUnknown = errors.New("outcome unknown: the write may have happened")

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("raft store is closed")

// NotLeaderError means that the call must go to another scheduler; nothing was done.
type NotLeaderError struct {
	Leader string // Raft address of the leader, empty when unknown
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "this scheduler is not the leader, and there is none it knows of"
	}
	return "this scheduler is not the leader: the leader is at " + e.Leader
}

// CorruptError means that stored state is damaged or missing. The store never starts without it.
type CorruptError struct {
	File string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged: %v; restore the data directory from a backup, or, when other "+
		"schedulers hold the state, remove this scheduler from the cluster and let it join with an empty data directory",
		e.File, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
