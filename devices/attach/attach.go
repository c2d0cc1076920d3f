package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Config of an Attacher. Zero values mean the defaults.
type Config struct {
	SpecDirs  []string // the host's, later ones win; /etc/cdi, /var/run/cdi
	Dir       string   // required: ours alone
	Root      string   // of /dev and of the drivers' files; "/"
	NvidiaCTK string   // program; "nvidia-ctk"

	Devices func() []devices.Device // required: what the host has now
	Logger  *slog.Logger
}

// Attacher gives containers their devices. It is safe for concurrent use.
type Attacher struct {
	cfg Config

	mu        sync.Mutex
	host, own *library
	generated bool          // by nvidia-ctk, in this process
	stuck     chan struct{} // closed when an nvidia-ctk that was killed has ended
}

// New makes an Attacher and its directory; it holds nothing that needs closing.
func New(cfg Config) (*Attacher, error) {
	if len(cfg.SpecDirs) == 0 {
		cfg.SpecDirs = []string{"/etc/cdi", "/var/run/cdi"}
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.NvidiaCTK == "" {
		cfg.NvidiaCTK = "nvidia-ctk"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !filepath.IsAbs(cfg.Dir):
		return nil, fmt.Errorf("attach devices: directory %q is not an absolute path", cfg.Dir)
	case cfg.Devices == nil:
		return nil, errors.New("attach devices: no source of devices")
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, fakeNodes), 0o700); err != nil {
		return nil, fmt.Errorf("attach devices: %w", err)
	}
	return &Attacher{
		cfg: cfg, host: newLibrary(cfg.Logger, cfg.SpecDirs...), own: newLibrary(cfg.Logger, cfg.Dir),
	}, nil
}

// Inject changes the specification so that its container has exactly these devices, and with rdma the
// host's RDMA devices. The specification's user is set by then, and its environment is otherwise complete. After an error it
// must not be used. Errors are one line for people; trying again helps only after somebody has changed the host, or
// when ctx ended.
func (a *Attacher) Inject(ctx context.Context, spec *specs.Spec, ids []string, rdma bool) error {
	wanted, all, err := a.find(ids)
	if err != nil {
		return fmt.Errorf("attach devices: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	edits := &cdi.ContainerEdits{}
	for _, vendor := range slices.Sorted(maps.Keys(wanted)) {
		e, err := a.edits(ctx, vendor, wanted[vendor], all)
		if err != nil {
			return fmt.Errorf("attach devices: %w", err)
		}
		edits.Append(e)
	}
	if rdma {
		e, err := a.rdma()
		if err != nil {
			return fmt.Errorf("attach devices: %w", err)
		}
		edits.Append(e)
	}
	if err := apply(edits, spec); err != nil {
		return fmt.Errorf("attach devices: %w", err)
	}
	return nil
}

// find answers the devices by vendor, and all that there are.
func (a *Attacher) find(ids []string) (wanted map[string][]devices.Device, all []devices.Device, err error) {
	all = a.cfg.Devices()
	wanted = map[string][]devices.Device{}
	for i, id := range ids {
		at := slices.IndexFunc(all, func(d devices.Device) bool { return d.ID == id })
		switch {
		case slices.Contains(ids[:i], id):
			return nil, nil, fmt.Errorf("device %s is named twice", id)
		case at < 0:
			return nil, nil, fmt.Errorf("device %s is not on this node", id)
		case all[at].Health == fleetv1.Lost:
			return nil, nil, fmt.Errorf("device %s is lost: %s", id, all[at].Reason)
		}
		wanted[all[at].Vendor] = append(wanted[all[at].Vendor], all[at])
	}
	return wanted, all, nil
}

// edits answers what one vendor's devices need.
func (a *Attacher) edits(ctx context.Context, vendor string, list, all []devices.Device) (*cdi.ContainerEdits, error) {
	switch vendor {
	case "nvidia":
		return a.nvidia(ctx, list, all)
	case "ascend":
		return a.ascend(list, all)
	case "fake":
		return a.fake(list)
	}
	return nil, fmt.Errorf("device %s: nobody knows how to attach devices of vendor %q", list[0].ID, vendor)
}

// target is a device with the node that tells it from its vendor's others.
type target struct {
	id   string
	node string // "/dev/nvidia0"; empty: found by its ID alone
}

// resolve finds all targets in one library and checks what it says of them; missing names one that isn't
// there.
func (a *Attacher) resolve(l *library, kind string, targets []target, own ownership) (edits *cdi.ContainerEdits, missing string, err error) {
	l.refresh()
	var found []*cdi.Device
	for _, t := range targets {
		d, err := l.find(kind, t, func(path string) string { return a.inRoot(path, own) })
		if err != nil {
			return nil, "", err
		}
		if d == nil {
			return nil, t.id, nil
		}
		if slices.Contains(found, d) {
			return nil, "", fmt.Errorf("CDI specification %s: device %s stands for two devices, one of them %s", d.GetSpec().GetPath(), d.GetQualifiedName(), t.id)
		}
		found = append(found, d)
	}
	edits, err = a.assemble(found, own)
	return edits, "", err
}

// inRoot answers the path below our root if it is a node of one device of its vendor, else "".
func (a *Attacher) inRoot(path string, own ownership) string {
	if a.cfg.Root != "/" {
		path = strings.TrimPrefix(path, strings.TrimSuffix(a.cfg.Root, "/"))
	}
	if own.pattern == nil || !own.pattern.MatchString(path) {
		return ""
	}
	return path
}
