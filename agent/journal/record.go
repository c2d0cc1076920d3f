package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Header says what the journal's instances were taken from.
type Header struct {
	ClusterID    string
	RestoreEpoch uint64
	Generation   uint64
	// HoldRemovals: the cluster was restored from a backup, and no operator has confirmed yet that what is missing
	// from its sets may go.
	HoldRemovals bool
}

// Contact is when the node last had a scheduler: the host's time since this boot, suspensions included.
type Contact struct {
	BootID string
	At     time.Duration
}

// Record is one instance on this node. Records are values: whoever keeps one clones the messages before
// changing them.
type Record struct {
	// Instance as assigned (meta, spec, desired) with the agent's own observed.
	Instance *fleetv1.Instance
	// Absent: no longer in the assignment set; stop, reap, forget.
	Absent bool
	// StoppedHere: stopped on the node by its operator; stays stopped.
	StoppedHere bool
	// Kept: not in the assignment set, and stays for as long as removals are held; Absent follows.
	Kept bool
	// Waits: it was assigned while the node kept others, and is not started before those are gone.
	Waits bool
	// CutOff: the node has stopped it because it had no scheduler; stays stopped.
	CutOff bool
	// Broken is why the instance has to leave a device that failed; it doesn't come back to it.
	Broken string
	// SequenceLimit is above every sequence number that reports of this instance have used.
	SequenceLimit uint64
	// Events that no scheduler has acknowledged, oldest first.
	Events []*fleetv1.ReportedEvent
}

// ID of the instance.
func (r Record) ID() string { return r.Instance.GetMeta().GetId() }

// Clone answers a copy that shares nothing with r.
func (r Record) Clone() Record {
	r.Instance = proto.CloneOf(r.Instance)
	events := make([]*fleetv1.ReportedEvent, len(r.Events))
	for i, ev := range r.Events {
		events[i] = proto.CloneOf(ev)
	}
	r.Events = events
	return r
}

// stored is the form of a Record in the file.
type stored struct {
	Instance      []byte
	Absent        bool     `json:",omitempty"`
	StoppedHere   bool     `json:",omitempty"`
	Kept          bool     `json:",omitempty"`
	Waits         bool     `json:",omitempty"`
	CutOff        bool     `json:",omitempty"`
	Broken        string   `json:",omitempty"`
	SequenceLimit uint64   `json:",omitempty"`
	Events        [][]byte `json:",omitempty"`
}

type storedHeader struct {
	Header
	Records     int
	Quarantined map[string]devices.Quarantine `json:",omitempty"`
	Contact     Contact                       `json:",omitzero"`
}

func encodeRecord(r Record) ([]byte, error) {
	s := stored{
		Absent: r.Absent, StoppedHere: r.StoppedHere, Kept: r.Kept, Waits: r.Waits, CutOff: r.CutOff, Broken: r.Broken, SequenceLimit: r.SequenceLimit,
	}
	var err error
	if s.Instance, err = proto.Marshal(r.Instance); err != nil {
		return nil, fmt.Errorf("encode instance %s: %w", r.ID(), err)
	}
	for _, ev := range r.Events {
		b, err := proto.Marshal(ev)
		if err != nil {
			return nil, fmt.Errorf("encode an event of instance %s: %w", r.ID(), err)
		}
		s.Events = append(s.Events, b)
	}
	return json.Marshal(s)
}

func decodeRecord(key string, b []byte) (Record, error) {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return Record{}, err
	}
	r := Record{
		Instance: &fleetv1.Instance{}, Absent: s.Absent, StoppedHere: s.StoppedHere, Kept: s.Kept, Waits: s.Waits, CutOff: s.CutOff,
		Broken: s.Broken, SequenceLimit: s.SequenceLimit,
	}
	if err := proto.Unmarshal(s.Instance, r.Instance); err != nil {
		return Record{}, err
	}
	for _, raw := range s.Events {
		ev := &fleetv1.ReportedEvent{}
		if err := proto.Unmarshal(raw, ev); err != nil {
			return Record{}, err
		}
		r.Events = append(r.Events, ev)
	}
	if r.ID() != key {
		return Record{}, fmt.Errorf("it is the record of %q", r.ID())
	}
	return r, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal prepends the checksum of key and value.
func seal(key string, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
	return append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(value)), sum), value...)
}

func unseal(key string, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, errors.New("it is too short")
	}
	value := sealed[4:]
	if crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value) != binary.LittleEndian.Uint32(sealed) {
		return nil, errors.New("its checksum is wrong")
	}
	return value, nil
}
