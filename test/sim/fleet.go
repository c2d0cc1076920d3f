package sim

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/session"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/sim/trace"
)

// Fleet is what the nodes are like. Each has 128 cores, 2 TiB and 8 devices.
type Fleet struct {
	Nodes int
	// PerRack nodes have one value of the label rack; default 16.
	PerRack int
	// Mixed makes every tenth node one without NVLink, whose devices are linked in pairs below a PCIe switch.
	Mixed bool
}

const (
	gib     = 1 << 30
	devices = 8
	pool    = "gpu"
	// imageCount is how many images a project has.
	imageCount = 10
)

// found makes the cluster, its pool and its nodes.
func (w *world) found() error {
	if w.cfg.Fleet.Nodes < 1 {
		return fmt.Errorf("a fleet needs nodes, not %d", w.cfg.Fleet.Nodes)
	}
	if _, _, err := w.feed.Poll(); err != nil { // the first answer is that everything is new
		return fmt.Errorf("follow the store: %w", err)
	}
	ok := w.write("admin", &fleetv1.Write{Mutations: []*fleetv1.Mutation{
		state.Put(0, &fleetv1.Cluster{Meta: w.meta("", "cluster")}),
		state.Put(0, &fleetv1.Pool{Meta: w.meta("", pool), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Selector: map[string]string{"pool": pool}}}),
	}})
	for n := range w.cfg.Fleet.Nodes {
		a := &agent{w: w, n: n, name: fmt.Sprintf("n%05d", n), up: true, linked: true, local: map[string]*local{}}
		a.facts = w.facts(a)
		w.agents, w.byName[a.name] = append(w.agents, a), a
		ok = ok && w.register(a)
	}
	if !ok {
		return fmt.Errorf("found the cluster: %q", w.faults)
	}
	return nil
}

// meta is what the API gives a new object.
func (w *world) meta(project, name string) *fleetv1.Meta {
	return &fleetv1.Meta{Name: name, Id: w.newID(), Account: fleetv1.Default, Project: project, Generation: 1,
		CreateTime: timestamppb.New(w.now), UpdateTime: timestamppb.New(w.now), CreatedBy: "admin"}
}

func (w *world) facts(a *agent) *fleetv1.NodeFacts {
	perRack := w.cfg.Fleet.PerRack
	if perRack <= 0 {
		perRack = 16
	}
	rack := a.n / perRack
	f := &fleetv1.NodeFacts{BootId: "boot-0", Hostname: a.name, Arch: "amd64", Os: "linux", CpuMillis: 128_000, MemoryBytes: 2048 * gib, DiskBytes: 4096 * gib,
		ReservedCpuMillis: 4000, ReservedMemoryBytes: 16 * gib, AdvertiseAddress: fmt.Sprintf("10.%d.%d.%d", a.n>>16, a.n>>8&255, a.n&255),
		Labels: map[string]string{"pool": pool, "rack": fmt.Sprintf("r%04d", rack), "zone": fmt.Sprintf("z%d", rack/16)}, AgentVersion: "sim", Runtime: "sim"}
	plain := w.cfg.Fleet.Mixed && a.n%10 == 9
	for i := range int32(devices) {
		numa := i / 4
		d := &fleetv1.Device{Id: fmt.Sprintf("GPU-%05d-%d", a.n, i), Vendor: "nvidia", Model: "H100-80GB", Index: i, MemoryBytes: 80 * gib,
			Health: fleetv1.Healthy, NumaNode: &numa}
		if plain {
			d.Model, d.MemoryBytes = "L40S", 48*gib
		}
		for j := range int32(devices) {
			link := &fleetv1.DeviceLink{Peer: fmt.Sprintf("GPU-%05d-%d", a.n, j), Kind: "nvlink"}
			switch {
			case i == j:
				continue
			case plain && i/2 == j/2:
				link.Kind = "pix"
			case plain:
				link.Kind = "sys"
			}
			d.Links = append(d.Links, link)
		}
		f.Devices = append(f.Devices, d)
	}
	return f
}

// register writes what the agent says of its node, as the session does.
func (w *world) register(a *agent) bool {
	stored := w.store.View().Node(a.name)
	node, event := session.Registered(stored, a.name, w.newID, a.facts, w.now)
	if node == nil {
		return true
	}
	write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(stored.GetMeta().GetRevision(), node)}}
	if event != nil {
		write.Events = append(write.Events, event)
	}
	result, err := w.commit(&fleetv1.Command{Caller: "agent/" + a.name, Op: &fleetv1.Command_Write{Write: write}})
	if err == nil && len(result.Rejections) > 0 {
		w.fault("registration of %s refused: %v", a.name, result.Rejections)
	}
	return err == nil // else it connects again, to the next leader
}

// flavor is the name of the flavor for a shape, which is made when it is first asked for.
func (w *world) flavor(s *trace.Shape) (string, *fleetv1.Mutation) {
	name := fmt.Sprintf("c%d.m%d", s.CPUMillis, s.MemoryBytes>>20)
	spec := &fleetv1.FlavorSpec{CpuMillis: s.CPUMillis, MemoryBytes: s.MemoryBytes}
	if s.Devices > 0 {
		name += fmt.Sprintf(".g%d%s.%s", s.Devices, s.Domain, s.Model)
		spec.Accelerator = &fleetv1.Accelerator{Vendor: "nvidia", Model: s.Model, Count: int32(s.Devices), Domain: s.Domain}
	}
	if w.store.View().Flavor(name) != nil {
		return name, nil
	}
	return name, state.Put(0, &fleetv1.Flavor{Meta: w.meta("", name), Spec: spec})
}

// model is the name of the project's model of a number, which is made when it is first asked for.
func (w *world) model(project string, number int) (string, *fleetv1.Mutation) {
	name := fmt.Sprintf("m%d", number%imageCount)
	if w.store.View().Model(project, name, "0.0.1") != nil {
		return name, nil
	}
	image := project + "/" + name
	return name, state.Put(0, &fleetv1.Model{Meta: w.meta(project, name),
		Spec:   &fleetv1.ModelSpec{Version: "0.0.1", Image: "registry/" + image + ":1", Health: &fleetv1.HealthCheck{CheckMethod: "HTTP"}},
		Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: fmt.Sprintf("sha256:%x", image), Arches: []string{"amd64"}}})
}

// withImage adds a digest to an ordered list of them, of which at most 64 are kept.
func withImage(images []string, digest string) []string {
	at, has := slices.BinarySearch(images, digest)
	if has {
		return images
	}
	images = slices.Insert(slices.Clone(images), at, digest)
	if len(images) > 64 {
		images = slices.Delete(images, 0, 1)
	}
	return images
}
