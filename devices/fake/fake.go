package fake

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Vendor of fake devices.
const Vendor = "fake"

const mostDevices = 64

// Backend is a devices.Backend.
type Backend struct {
	// Name makes the IDs of this host's devices differ from another's. Now is the clock. Both are set
	// before the backend is used.
	Name string
	Now  func() time.Time

	models []model // of each device
	script []step  // ordered by time

	mu      sync.Mutex
	started time.Time       // of the first use, for the script
	faults  []fault         // of each device
	held    map[string]bool // nil: nobody has said who holds what
	silent  bool            // the whole library hangs
	wake    chan struct{}
	signals []devices.Signal
}

type model struct {
	name        string
	memory      int64
	first, many int // the devices that were described together
}

// Parse reads "COUNTxMODEL-MEMORYGB,…[;AFTER:INDEX:FAILURE…]", for example "8xH100-80GB" or
// "8xH100-80GB;30s:3:lost". At most 64 devices, MEMORY 1–1024. INDEX may be "all"; FAILURE is what
// Inject takes.
func Parse(text string) (*Backend, error) {
	b := &Backend{Name: "host", Now: time.Now, wake: make(chan struct{})}
	described, script, scripted := strings.Cut(text, ";")
	for word := range strings.SplitSeq(described, ",") {
		if err := b.addModel(word); err != nil {
			return nil, fmt.Errorf("fake devices %q: %w; write for example 8xH100-80GB,2xAscend910B-64GB", text, err)
		}
	}
	b.faults = make([]fault, len(b.models))
	if scripted {
		for word := range strings.SplitSeq(script, ";") {
			s, err := parseStep(word, len(b.models))
			if err != nil {
				return nil, fmt.Errorf("fake devices %q: %q: %w; write for example 30s:3:lost", text, word, err)
			}
			b.script = append(b.script, s)
		}
		slices.SortStableFunc(b.script, func(x, y step) int { return cmp.Compare(x.after, y.after) })
	}
	return b, nil
}

// addModel reads "COUNTxMODEL-MEMORYGB".
func (b *Backend) addModel(text string) error {
	number, name, found := strings.Cut(text, "x")
	if !found {
		return fmt.Errorf("no 'x' between count and model")
	}
	count, err := strconv.Atoi(number)
	if err != nil || count < 1 || count > mostDevices-len(b.models) {
		return fmt.Errorf("the count is not 1–%d", mostDevices)
	}
	dash := strings.LastIndexByte(name, '-')
	size, isGB := strings.CutSuffix(name[dash+1:], "GB")
	memory, err := strconv.Atoi(size)
	if dash < 1 || !isGB || err != nil || memory < 1 || memory > 1024 {
		return fmt.Errorf("the model does not end in its memory (-80GB)")
	}
	for _, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c) {
			return fmt.Errorf("the model has the character %q", c)
		}
	}
	first := len(b.models)
	for range count {
		b.models = append(b.models, model{name: name, memory: int64(memory) << 30, first: first, many: count})
	}
	return nil
}

// Vendor implements devices.Backend.
func (b *Backend) Vendor() string { return Vendor }

func (b *Backend) id(i int) string {
	return fmt.Sprintf("fake-%s-%s-%d", b.Name, strings.ToLower(b.models[i].name), i)
}

// Discover implements devices.Backend.
func (b *Backend) Discover(ctx context.Context) ([]devices.Device, error) {
	if err := b.enter(ctx); err != nil {
		return nil, fmt.Errorf("discover fake devices: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Now()
	found := make([]devices.Device, 0, len(b.models))
	for i, m := range b.models {
		node, minor := i*2/len(b.models), i
		d := devices.Device{
			ID: b.id(i), Vendor: Vendor, Model: m.name, Index: i, MemoryBytes: m.memory, Minor: &minor,
			PCIAddress: fmt.Sprintf("0000:%02x:00.0", 0x10+i), NUMANode: &node,
			DriverVersion: "1.0", Links: b.links(i),
		}
		d.Health, d.Reason = b.faults[i].at(now)
		found = append(found, d)
	}
	return found, nil
}

// fabrics are how the devices of one server are joined, by the start of their model's name; the first that
// fits counts. Groups are full meshes.
var fabrics = []struct {
	model string
	kind  devices.LinkKind
	links int // between each two
	group int
}{
	{"H100", devices.LinkNVLink, 18, 8}, // DGX H100
	{"H200", devices.LinkNVLink, 18, 8},
	{"A100", devices.LinkNVLink, 12, 8},    // DGX A100
	{"Ascend910B", devices.LinkHCCS, 1, 8}, // Atlas 800 A2
	{"Ascend910", devices.LinkHCCS, 1, 4},  // Atlas 800: two groups
}

func (b *Backend) links(i int) []devices.Link {
	var out []devices.Link
	for j := range b.models {
		if j != i {
			kind, count := b.link(i, j)
			out = append(out, devices.Link{Peer: b.id(j), Kind: kind, Count: count})
		}
	}
	slices.SortFunc(out, func(x, y devices.Link) int { return cmp.Compare(x.Peer, y.Peer) })
	return out
}

func (b *Backend) link(i, j int) (devices.LinkKind, int) {
	m := b.models[i]
	if m.first == b.models[j].first {
		for _, f := range fabrics {
			if strings.HasPrefix(m.name, f.model) {
				if (i-m.first)/f.group == (j-m.first)/f.group {
					return f.kind, f.links
				}
				break
			}
		}
	}
	if i*2/len(b.models) == j*2/len(b.models) {
		return devices.LinkPHB, 0
	}
	return devices.LinkSYS, 0
}

// Close implements devices.Backend.
func (b *Backend) Close() error { return nil }

// SetHealth makes a device report this health from its next discovery on.
func (b *Backend) SetHealth(id, health, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.models {
		if b.id(i) == id {
			b.faults[i] = fault{health: health, reason: reason}
			if health == fleetv1.Healthy {
				b.faults[i] = fault{}
			}
		}
	}
}
