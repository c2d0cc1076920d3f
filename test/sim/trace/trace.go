package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Kinds of events.
const (
	Deploy = "deploy" // a service, or a job when Run is set
	Scale  = "scale"  // of Service to Instances
	Delete = "delete" // of Service

	Crash     = "crash"     // of Node, which is back after For with nothing running
	Partition = "partition" // of Node, which is back after For; its containers run on
	Fault     = "fault"     // of Device of Node, healthy again after For; with Evict its instances leave
	Cordon    = "cordon"    // of Node for For
	Drain     = "drain"     // of Node with Deadline, for For; with Cancel it is called off after that time

	Quota  = "quota"  // of Project: Devices, Instances; 0 for none
	Leader = "leader" // another one; with Restart it has just read its snapshot
)

// Event is one thing that happens. Times are seconds.
type Event struct {
	At      float64 `json:"at"` // since the trace began
	Kind    string  `json:"kind"`
	Service string  `json:"service,omitempty"`
	Project string  `json:"project,omitempty"`
	// Shape is what one instance of a deployed service asks for.
	Shape *Shape `json:"shape,omitempty"`
	// Instances of a service; a gang counts as one.
	Instances int `json:"instances,omitempty"`
	// Run is how long a job runs before it is deleted, not counting the time during which it didn't serve.
	Run float64 `json:"run,omitempty"`

	Node     int     `json:"node,omitempty"` // by number, modulo the fleet's size
	Device   int     `json:"device,omitempty"`
	Devices  int     `json:"devices,omitempty"`
	For      float64 `json:"for,omitempty"`
	Deadline float64 `json:"deadline,omitempty"` // since At
	Cancel   float64 `json:"cancel,omitempty"`   // since At
	Evict    bool    `json:"evict,omitempty"`
	Restart  bool    `json:"restart,omitempty"`
}

// Shape is what an instance asks for.
type Shape struct {
	Devices     int    `json:"devices,omitempty"` // on each node
	Model       string `json:"model,omitempty"`   // of the devices: exact, a glob, or empty for any
	Domain      string `json:"domain,omitempty"`
	CPUMillis   int64  `json:"cpu_millis"`
	MemoryBytes int64  `json:"memory_bytes"`
	Nodes       int    `json:"nodes,omitempty"` // above 1 it is a gang
	Priority    int    `json:"priority,omitempty"`
	Preemptible bool   `json:"preemptible,omitempty"`
	// Spread is the label over which instances are spread, or empty.
	Spread       string `json:"spread,omitempty"`
	Skew         int    `json:"skew,omitempty"`
	Strict       bool   `json:"strict,omitempty"` // they wait rather than exceed the skew
	AntiAffinity bool   `json:"anti_affinity,omitempty"`
}

// Bounds of what a trace may say, in keeping with what the API accepts.
const (
	maxTime      = 1e8
	maxInstances = 1000
	maxNodes     = 256
	maxDevices   = 64
)

// Check finds what the event lacks or has too much of.
func (e *Event) Check() error {
	for _, t := range []float64{e.At, e.Run, e.For, e.Deadline, e.Cancel} {
		if math.IsNaN(t) || t < 0 || t > maxTime {
			return fmt.Errorf("a time of %g s is not within 0–%g", t, float64(maxTime))
		}
	}
	if e.Node < 0 || e.Device < 0 || e.Devices < 0 || e.Instances < 0 || e.Instances > maxInstances {
		return fmt.Errorf("node, device and devices are at least 0, instances 0–%d", maxInstances)
	}
	switch e.Kind {
	case Deploy:
		if e.Service == "" || e.Shape == nil || e.Instances < 1 {
			return errors.New("a deployment needs a service, a shape and at least 1 instance")
		}
		s := e.Shape
		if s.Devices < 0 || s.Devices > maxDevices || s.Nodes < 0 || s.Nodes > maxNodes || s.Priority < 0 || s.Priority > 100 ||
			s.CPUMillis < 10 || s.MemoryBytes < 16<<20 || s.Skew < 0 || s.Skew > 100 {
			return fmt.Errorf("a shape has 0–%d devices, 0–%d nodes, priority 0–100, at least 10 millicores and 16 MiB, skew 0–100", maxDevices, maxNodes)
		}
	case Scale, Delete:
		if e.Service == "" || e.Kind == Scale && e.Instances < 1 {
			return fmt.Errorf("a %s needs a service, and to scale at least 1 instance", e.Kind)
		}
	case Crash, Partition, Fault, Cordon, Drain, Leader:
	case Quota:
		if e.Project == "" {
			return errors.New("a quota needs a project")
		}
	default:
		return fmt.Errorf("kind %q is unknown", e.Kind)
	}
	return nil
}

// Write writes one line for each event.
func Write(w io.Writer, events []Event) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return fmt.Errorf("write event %d of the trace: %w", i+1, err)
		}
	}
	return out.Flush()
}

// Read reads what Write writes. Empty lines are skipped; an error names its line.
func Read(r io.Reader) ([]Event, error) {
	var events []Event
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	line := 0
	for in.Scan() {
		line++
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var e Event
		dec := json.NewDecoder(bytes.NewReader(in.Bytes()))
		dec.DisallowUnknownFields()
		err := dec.Decode(&e)
		if err == nil && dec.More() {
			err = errors.New("something follows the event")
		}
		if err == nil {
			err = e.Check()
		}
		if err == nil && len(events) > 0 && e.At < events[len(events)-1].At {
			err = fmt.Errorf("it is earlier than the event before it (%g s after %g s)", e.At, events[len(events)-1].At)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		events = append(events, e)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", line+1, err)
	}
	return events, nil
}
