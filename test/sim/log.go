package sim

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// commandLog is the log of a run: each command with its length before it.
type commandLog struct {
	file  io.ReadWriteSeeker
	out   *bufio.Writer
	hash  hash.Hash
	index uint64
	bytes int64
	last  string // what the last entry was, for people
	err   error
}

func newCommandLog(file io.ReadWriteSeeker) *commandLog {
	l := &commandLog{file: file, hash: sha256.New()}
	l.out = bufio.NewWriterSize(io.MultiWriter(file, l.hash), 1<<20)
	return l
}

// append writes a command and answers it as a follower would read it.
func (l *commandLog) append(cmd *fleetv1.Command) (*fleetv1.Command, error) {
	if l.err != nil {
		return nil, l.err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode a command: %w", err)
	}
	for _, b := range [][]byte{binary.AppendUvarint(nil, uint64(len(data))), data} {
		n, err := l.out.Write(b)
		if l.bytes += int64(n); err != nil {
			l.err = fmt.Errorf("write the log: %w", err)
			return nil, l.err
		}
	}
	l.index++
	read := &fleetv1.Command{}
	return read, proto.Unmarshal(data, read)
}

// sum is the SHA-256 of the log.
func (l *commandLog) sum() (string, error) {
	if err := l.out.Flush(); err != nil {
		return "", fmt.Errorf("write the log: %w", err)
	}
	return hex.EncodeToString(l.hash.Sum(nil)), nil
}

// replay makes a store of the log.
func (l *commandLog) replay() (*state.Store, error) {
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	in, store := bufio.NewReaderSize(l.file, 1<<20), state.New()
	var data []byte
	for index := uint64(1); ; index++ {
		size, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			return store, nil
		}
		if err == nil {
			if uint64(cap(data)) < size {
				data = make([]byte, size)
			}
			data = data[:size]
			_, err = io.ReadFull(in, data)
		}
		cmd := &fleetv1.Command{}
		if err == nil {
			err = proto.Unmarshal(data, cmd)
		}
		if err != nil {
			return nil, fmt.Errorf("read entry %d of the log: %w", index, err)
		}
		store.Apply(index, cmd)
	}
}

// digest is the SHA-256 of a store's snapshot.
func digest(s *state.Store) (sum string, size int64, err error) {
	h := sha256.New()
	size, err = s.Snapshot().WriteTo(h)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// Propose implements reconcile.Proposer.
func (w *world) Propose(_ context.Context, cmd *fleetv1.Command) (state.Result, error) {
	return w.apply(cmd)
}

// commit proposes what does not come from the loops.
func (w *world) commit(cmd *fleetv1.Command) (state.Result, error) {
	cmd.Time, cmd.Introduced = timestamppb.New(w.clock()), state.Introduced(cmd)
	return w.apply(cmd)
}

func (w *world) apply(cmd *fleetv1.Command) (state.Result, error) {
	committed, lost := w.deposes()
	if !committed {
		return state.Result{}, lost
	}
	result, err := w.committed(cmd)
	return result, errors.Join(err, lost)
}

// committed appends a command to the log and applies it.
func (w *world) committed(cmd *fleetv1.Command) (state.Result, error) {
	read, err := w.log.append(cmd)
	if err != nil {
		return state.Result{}, err
	}
	w.log.last = describe(cmd)
	result, _ := w.store.Apply(w.log.index, read)
	sets, resync, err := w.feed.Poll()
	if err != nil || resync && w.log.index > 1 && len(sets) > 0 {
		w.fault("the feed was lost: %v", err)
	}
	w.meter.applied(read, result)
	w.ledger.applied(read, result, sets)
	for _, set := range sets {
		w.follow(set)
		w.drained(cmd.GetCaller(), set)
	}
	return result, nil
}

// follow has agents and jobs hear of changes.
func (w *world) follow(set state.ChangeSet) {
	for _, c := range set.Changes {
		switch c.Key.Kind {
		case fleetv1.KindNode:
			before, after := c.Before.GetNode().GetStatus(), c.After.GetNode().GetStatus()
			if a := w.byName[c.Key.Key]; a != nil && before.GetAssignmentGeneration() != after.GetAssignmentGeneration() {
				a.order()
			}
		case fleetv1.KindService:
			if j := w.jobs[c.After.GetService().GetMeta().GetId()]; j != nil {
				j.follow(w, c.After.GetService())
			}
		}
	}
}

// drained checks drains that the loops have ended.
func (w *world) drained(caller string, set state.ChangeSet) {
	for _, c := range set.Changes {
		before, after := c.Before.GetNode().GetSpec(), c.After.GetNode().GetSpec()
		if caller != "scheduler" || before.GetDrain() == nil || after.GetDrain() != nil {
			continue
		}
		w.meter.drained(w.now.Sub(before.GetDrain().GetStartTime().AsTime()))
		if left := w.ledger.nodes[c.Key.Key].instances; left > 0 || !after.GetCordoned() {
			w.fault("node %s counts as drained with %d instances (cordoned: %t)", c.Key.Key, left, after.GetCordoned())
		}
	}
}

// describe names a command's kind, its size and its first event or object.
func describe(cmd *fleetv1.Command) string {
	switch op := cmd.GetOp().(type) {
	case *fleetv1.Command_Write:
		s := fmt.Sprintf("a write of %d objects by %s", len(op.Write.GetMutations()), cmd.GetCaller())
		if m := op.Write.GetMutations(); len(m) > 0 {
			if put := m[0].GetPut(); put != nil {
				s += ", first " + state.KeyOf(put).String()
			} else {
				s += ", first deleting " + m[0].GetDelete().GetId()
			}
		}
		if e := op.Write.GetEvents(); len(e) > 0 {
			s += fmt.Sprintf(", %s: %s", e[0].GetReason(), e[0].GetMessage())
		}
		return s
	case *fleetv1.Command_Plan:
		return fmt.Sprintf("a plan of %d parts", len(op.Plan.GetParts()))
	case *fleetv1.Command_Report:
		return "a report of " + op.Report.GetNode()
	case *fleetv1.Command_Reports:
		return fmt.Sprintf("reports of %d nodes", len(op.Reports.GetReports()))
	}
	return "unknown"
}
