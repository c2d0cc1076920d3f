package state

import (
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// largeNode is a node as an agent of an eight-GPU host registers it, with links between all devices.
func largeNode(n int) *fleetv1.Node {
	name := fmt.Sprintf("node-%05d", n)
	id := func(d int) string { return fmt.Sprintf("GPU-%08x-1111-2222-3333-%012x", n, d) }
	node := &fleetv1.Node{
		Meta: &fleetv1.Meta{Name: name, Id: fmt.Sprintf("%08x-aaaa-4bbb-8ccc-000000000000", n), Account: "default", Project: "default", Generation: 1, CreateTime: at(0)},
		Facts: &fleetv1.NodeFacts{BootId: id(99), Hostname: name, Arch: "amd64", Os: "Debian GNU/Linux 12", Kernel: "6.1.0-25-amd64",
			CpuMillis: 192_000, MemoryBytes: 2 << 40, DiskBytes: 8 << 40, ReservedCpuMillis: 2000, ReservedMemoryBytes: 8 << 30,
			AdvertiseAddress: fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255), Addresses: []string{fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255)},
			Labels:    map[string]string{"rack": fmt.Sprintf("r%03d", n/16), "zone": fmt.Sprintf("z%d", n/2000), "all": "yes"},
			MountDirs: []string{"/data/models"}, AgentVersion: "0.4.0", Runtime: "containerd 1.7.20", HttpAddress: "127.0.0.1:7410"},
		Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady, StateTime: at(0)},
	}
	for d := range 8 {
		device := &fleetv1.Device{Id: id(d), Vendor: "nvidia", Model: "H100-80GB", Index: int32(d), MemoryBytes: 80 << 30, Health: fleetv1.Healthy,
			PciAddress: fmt.Sprintf("0000:%02x:00.0", d*16), NumaNode: proto.Int32(int32(d / 4)), Minor: proto.Int32(int32(d)),
			CpuAffinity: "0-47,96-143", DriverVersion: "550.90.07", RuntimeVersion: "12.4", ComputeCapability: "9.0"}
		for peer := range 8 {
			if peer != d {
				device.Links = append(device.Links, &fleetv1.DeviceLink{Peer: id(peer), Kind: "nvlink", Count: 18})
			}
		}
		node.Facts.Devices = append(node.Facts.Devices, device)
	}
	return node
}

// largeInstance is an instance as the planner places it; n makes it differ from others.
func largeInstance(n int, node *fleetv1.Node, devices ...*fleetv1.Device) *fleetv1.Instance {
	id := fmt.Sprintf("%08x-%04x-4aaa-8bbb-%012x", uint32(n)*2654435761, n&0xffff, n)
	i := &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: id, Name: "a-" + id[:8], Account: "default", Project: "default", Generation: 1, CreateTime: at(1), CreatedBy: "scheduler"},
		Spec: &fleetv1.InstanceSpec{
			ServiceId: "id-a", ServiceName: "a", ServiceGeneration: 1, Node: node.GetMeta().GetName(), Flavor: "f", Model: "m", ModelVersion: "0.0.1",
			CpuMillis: 8000, MemoryBytes: 64 << 30, DiskBytes: 10 << 30, Image: "registry.example.org/inference/iris:1.0",
			ImageDigest: "sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865", Command: []string{"/bin/serve", "--port", "8080"},
			Env:    map[string]string{"MODEL": "/models/iris", "WORKERS": "8", "LOG_LEVEL": "info", "CACHE": "/dev/shm", "BATCH": "32"},
			Limits: &fleetv1.Limits{ShmBytes: 1 << 30}, Network: "bridge", Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080},
			Health:             &fleetv1.HealthCheck{CheckMethod: "HTTP", Protocol: "http", Url: "/health", PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3},
			GracePeriodSeconds: 30, WithdrawSeconds: 3,
		},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
	}
	for _, d := range devices {
		i.Spec.DeviceIds, i.Spec.DeviceModels = append(i.Spec.DeviceIds, d.GetId()), append(i.Spec.DeviceModels, d.GetModel())
	}
	return i
}

func running(i *fleetv1.Instance, sequence uint64) *fleetv1.InstanceReport {
	return &fleetv1.InstanceReport{InstanceId: i.GetMeta().GetId(), Observed: &fleetv1.InstanceObserved{
		State: fleetv1.InstanceRunning, Attempt: 1, Sequence: sequence, Ready: true, Health: fleetv1.Healthy, Ip: "10.0.0.1", Port: 31000, StartTime: at(3), Pid: 4242,
	}}
}

// decoded is the command as it comes out of the log.
func decoded(tb testing.TB, c *fleetv1.Command) *fleetv1.Command {
	b, err := proto.Marshal(c)
	if err != nil {
		tb.Fatal(err)
	}
	out := &fleetv1.Command{}
	if err := proto.Unmarshal(b, out); err != nil {
		tb.Fatal(err)
	}
	return out
}

// largeFleet fills a store with nodes of eight devices, each with the given number of instances of one device.
func largeFleet(tb testing.TB, nodes, each int) (*Store, uint64) {
	s, index := New(), uint64(1)
	apply := func(c *fleetv1.Command) {
		index++
		if r, _ := s.Apply(index, decoded(tb, c)); len(r.Rejections) > 0 {
			tb.Fatal(r.Rejections)
		}
	}
	apply(baseCommands()[0])
	for n := range nodes {
		node := largeNode(n)
		apply(writeCommand(1, Put(0, node)))
		if each == 0 {
			continue
		}
		plan, reports := &fleetv1.Plan{}, []*fleetv1.InstanceReport{}
		for d := range each {
			i := largeInstance(n*8+d, node, node.GetFacts().GetDevices()[d])
			plan.Parts = append(plan.Parts, &fleetv1.PlanPart{ServiceId: "id-a", ServiceGeneration: 1, Instances: []*fleetv1.Instance{i}})
			reports = append(reports, running(i, 1))
		}
		apply(&fleetv1.Command{Time: at(1), Introduced: 1, Op: &fleetv1.Command_Plan{Plan: plan}})
		apply(reportCommand(node.GetMeta().GetName(), reports...))
	}
	return s, index
}

// BenchmarkApplyPlan is what a Plan of 1,000 parts of one instance costs, decoded already.
func BenchmarkApplyPlan(b *testing.B) {
	const parts, nodes = 1000, 2000
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s, index := largeFleet(b, nodes, 0)
		var plans []*fleetv1.Command
		for k := range 8 {
			plan := &fleetv1.Plan{}
			for p := range parts {
				node := largeNode((k*parts + p) % nodes)
				i := largeInstance(k*parts+p, node, node.GetFacts().GetDevices()[k])
				plan.Parts = append(plan.Parts, &fleetv1.PlanPart{ServiceId: "id-a", ServiceGeneration: 1, Instances: []*fleetv1.Instance{i},
					Events: []*fleetv1.Event{{Type: "Normal", Reason: "InstancePlaced", Message: "on node " + node.GetMeta().GetName()}}})
			}
			plans = append(plans, decoded(b, &fleetv1.Command{Time: at(1), Introduced: 1, Op: &fleetv1.Command_Plan{Plan: plan}}))
		}
		runtime.GC()
		b.StartTimer()
		for _, c := range plans {
			index++
			if r, _ := s.Apply(index, c); len(r.Rejections) > 0 {
				b.Fatal(r.Rejections[0])
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*8*parts), "ns/instance")
}

// BenchmarkApplyReports is what the report of a node with eight instances costs.
func BenchmarkApplyReports(b *testing.B) {
	s, index := largeFleet(b, 1000, 8)
	b.ReportAllocs()
	for seq := uint64(2); b.Loop(); seq++ {
		b.StopTimer()
		node := largeNode(int(seq) % 1000)
		var reports []*fleetv1.InstanceReport
		for _, i := range s.View().InstancesOnNode(node.GetMeta().GetName()) {
			reports = append(reports, running(i, seq))
		}
		c := decoded(b, reportCommand(node.GetMeta().GetName(), reports...))
		index++
		b.StartTimer()
		s.Apply(index, c)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMemory tells what stored nodes of eight devices and stored instances of one device cost.
func BenchmarkMemory(b *testing.B) {
	const nodes = 2000
	for b.Loop() {
		before := heap()
		bare, _ := largeFleet(b, nodes, 0)
		node := float64(heap()-before) / nodes
		runtime.KeepAlive(bare)
		before = heap()
		full, _ := largeFleet(b, nodes, 8)
		instance := (float64(heap()-before)/nodes - node) / 8
		runtime.KeepAlive(full)
		b.ReportMetric(node, "B/node")
		b.ReportMetric(instance, "B/instance")
		b.ReportMetric((node*10_000+instance*80_000)/(1<<20), "MiB/10kx8")
	}
}
