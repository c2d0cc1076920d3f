package runtime

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"
)

// Runtime runs containers on this host. Every method is idempotent and safe for concurrent use on
// different containers; callers never run two methods on one container at once, except Stats, Exec,
// Status and Signal. Errors wrap one of the sentinels below or are transient: try again later.
type Runtime interface {
	// Info names the runtime; an error wraps ErrUnavailable when it doesn't answer.
	Info(ctx context.Context) (Info, error)

	// Pull makes the image present and unpacked under its digest. When something has to be fetched, it calls
	// progress, when not nil, from one goroutine: at once, then at most 5 times a second. ErrFatal: the image is missing, refused or of another
	// architecture.
	Pull(ctx context.Context, req PullRequest, progress func(Progress)) (Image, error)

	// Create makes snapshot, network namespace with address, and container with its task, without
	// starting its process. A container of the same ID that exists already is adopted.
	Create(ctx context.Context, spec Spec) (Status, error)

	// Start starts the created process. Started already: its status.
	Start(ctx context.Context, id string) (Status, error)

	// Publish maps host port to the container's port (bridge network; nothing to do for host).
	Publish(ctx context.Context, id string, hostPort int) error

	// Withdraw takes the port mapping back.
	Withdraw(ctx context.Context, id string) error

	// Signal sends a signal to the container's first process. ErrNotFound when none runs.
	Signal(ctx context.Context, id string, sig syscall.Signal) error

	// Delete kills what still runs and removes task, container, snapshot, network namespace, rules and
	// cgroup. Nothing there: nil. Log files stay; RemoveLogs is the caller's.
	Delete(ctx context.Context, id string) error

	// Status answers ErrNotFound when the container does not exist, ErrUnavailable when nobody can tell:
	// unknown is never absent.
	Status(ctx context.Context, id string) (Status, error)

	// List finds every container that carries Drover's labels, whoever made it.
	List(ctx context.Context) ([]Status, error)

	// Watch sends an event for each change seen until ctx ends. After a gap (the runtime was away) it
	// sends EventResync: the caller lists again. The channel is closed when ctx ends.
	Watch(ctx context.Context) <-chan Event

	// Stats measures a running container.
	Stats(ctx context.Context, id string) (Stats, error)

	// Exec runs a command in the running container and answers its exit code. Ending ctx kills it.
	Exec(ctx context.Context, id string, req ExecRequest) (uint32, error)

	// RepairNetwork checks the bridge, the port maps and the isolation rules of running containers and
	// puts back what is missing. It answers how many rules it had to put back.
	RepairNetwork(ctx context.Context) (int, error)

	// CollectImages removes images that keep refuses, least recently used first, until disk use of the
	// image store is at or below the fraction low; nothing happens below high. It answers what it removed.
	CollectImages(ctx context.Context, high, low float64, keep func(digest string) bool) ([]Image, error)

	// Images lists the present images, each digest once, most recently used first. It reads what the runtime keeps in
	// memory or in one table: it may be asked once a minute.
	Images(ctx context.Context) ([]Image, error)

	Close() error
}

// Errors that a Runtime's errors wrap. Any other error is transient.
var (
	ErrNotFound    = errors.New("not found")
	ErrUnavailable = errors.New("runtime unavailable")
	// ErrFatal means that trying again with the same request cannot help.
	ErrFatal = errors.New("fatal")
	// ErrDevice means that a container can't be given its devices.
	ErrDevice = errors.New("devices")
)

// Info describes the runtime.
type Info struct {
	Name    string // "containerd", "fake"
	Version string
	// ImageDir is where images are kept; empty when that is unknown.
	ImageDir string
}

// PullRequest names an image.
type PullRequest struct {
	Image  string // reference as the user wrote it: registry, repository, tag
	Digest string // "sha256:…" of the manifest or index to run
	Arch   string // "amd64", "arm64"; empty means this host's
	// Allowed is asked before anything is fetched, and its error ends the pull; nil allows. An image that
	// is present needs no leave.
	Allowed func() error
}

// Progress of a pull.
type Progress struct {
	DoneBytes, TotalBytes int64 // TotalBytes 0 while unknown
}

// Image is one present image.
type Image struct {
	Digest string
	Bytes  int64 // 0 in a listing that doesn't know it
}

// Spec is all that a container is made from.
type Spec struct {
	ID     string            // container name: derived from instance and attempt
	Labels map[string]string // see Label…
	Image  string
	Digest string

	Command  []string          // replaces entrypoint and command when not empty
	Env      map[string]string // added to the image's
	Hostname string

	CPUMillis   int64 // quota and shares; 0 no limit
	MemoryBytes int64 // hard limit; 0 no limit
	ShmBytes    int64 // 0 means 64 MiB
	Memlock     int64 // bytes; -1 unlimited; 0 default
	Nofile      int64 // 0 default
	Pids        int64 // 0 default

	ReadOnlyRoot bool
	Mounts       []Mount

	Devices []string // IDs of the accelerators that it gets: these and no others
	RDMA    bool     // it gets the host's RDMA devices

	HostNetwork bool
	Port        int // that the container listens on (bridge)

	LogDir string // directory of this container's log files
}

// Mount is a bind mount of a host directory.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Labels that every container of Drover carries.
const (
	LabelInstance   = "drover.instance"
	LabelService    = "drover.service"
	LabelGeneration = "drover.generation" // of the service
	LabelEpoch      = "drover.epoch"      // fencing epoch of its devices
	LabelAttempt    = "drover.attempt"
)

// State of a container.
type State string

// States of a container.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StateExited  State = "exited"
	// StateBroken: what is left can't be told or used any more (its shim died); Delete it.
	StateBroken State = "broken"
)

// Status of one container.
type Status struct {
	ID       string
	Labels   map[string]string
	State    State
	Pid      int
	IP       string // its own address; empty with the host's network
	Started  time.Time
	Exit     *Exit // when StateExited or StateBroken
	HostPort int   // that Publish mapped; 0 none
}

// Exit says how a container ended.
type Exit struct {
	Code   uint32
	Reason ExitReason
	Time   time.Time
}

// ExitReason names why a container ended; the words are those of ExitStatus.reason in the API.
type ExitReason string

// Reasons.
const (
	ExitNormal       ExitReason = "Exited"
	ExitOOM          ExitReason = "OOMKilled"
	ExitShimKilled   ExitReason = "ShimKilled"
	ExitLoggerKilled ExitReason = "LoggerKilled"
)

// Event is a change that Watch saw.
type Event struct {
	Kind EventKind
	ID   string // of the container; empty for EventResync
	Exit *Exit  // for EventExited
}

// EventKind says what changed.
type EventKind string

// Kinds of events. EventLoggerDied: the container may still run, but what it prints is lost and it
// gets EPIPE; the caller restarts it.
const (
	EventExited     EventKind = "exited"
	EventLoggerDied EventKind = "logger-died"
	EventResync     EventKind = "resync"
)

// Stats of one container since it started; counters only grow. Absent (nil) is never zero.
type Stats struct {
	Time             time.Time
	CPUNanos         *uint64
	MemoryBytes      *uint64 // working set: usage less inactive file cache
	MemoryLimit      *uint64
	DiskReadBytes    *uint64
	DiskWriteBytes   *uint64
	NetReceiveBytes  *uint64
	NetTransmitBytes *uint64
	Pids             *uint64
	LogDroppedLines  *uint64 // lines that the logger could not write
}

// ExecRequest runs a command in a container.
type ExecRequest struct {
	Command        []string
	TTY            bool
	Stdin          io.Reader         // nil: none
	Stdout, Stderr io.Writer         // nil: discarded; with TTY everything goes to Stdout
	Size           WindowSize        // of the terminal when the command starts; zero: unknown
	Resize         <-chan WindowSize // later ones
}

// WindowSize of a terminal.
type WindowSize struct{ Rows, Columns uint16 }
