package trace

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Options of a synthetic trace.
type Options struct {
	Seed  uint64
	Nodes int     // of the fleet, each with 8 devices
	Hours float64 // how long it lasts
	// ServiceLoad and JobLoad are the shares of the devices that are asked for in the mean.
	ServiceLoad, JobLoad float64
	// Trouble multiplies how often hosts and devices fail, and nodes are drained and cordoned.
	Trouble float64
}

const (
	day      = 86400.0
	gib      = 1 << 30
	projects = 8
)

// maker draws a trace.
type maker struct {
	Options
	*rand.Rand
	end    float64
	events []Event
}

// Synthetic makes a trace, as the package's doc describes.
func Synthetic(o Options) []Event {
	m := &maker{Options: o, Rand: rand.New(rand.NewPCG(o.Seed, 0x7ace)), end: o.Hours * 3600}
	m.services()
	m.jobs()
	m.trouble()
	m.operations()
	slices.SortStableFunc(m.events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return m.events
}

// add rounds times to milliseconds: files and runs then agree.
func (m *maker) add(e Event) {
	for _, t := range []*float64{&e.At, &e.Run, &e.For, &e.Deadline, &e.Cancel} {
		*t = math.Round(*t*1000) / 1000
	}
	m.events = append(m.events, e)
}

// even draws from lo to hi.
func (m *maker) even(lo, hi float64) float64 { return lo + (hi-lo)*m.Float64() }

// chance is true with the probability p.
func (m *maker) chance(p float64) bool { return m.Float64() < p }

// pick draws a place by weight.
func (m *maker) pick(weights ...int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := m.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return len(weights) - 1
}

// poisson calls f at the times of a process of so many events in the time from 0 to the end.
func (m *maker) poisson(events float64, f func(at float64)) {
	if events <= 0 {
		return
	}
	mean := m.end / events
	for at := m.ExpFloat64() * mean; at < m.end; at += m.ExpFloat64() * mean {
		f(at)
	}
}

func (m *maker) shape(devices int) *Shape {
	model := []string{"H100-80GB", "H100*", ""}[m.pick(70, 20, 10)]
	return &Shape{Devices: devices, Model: model, CPUMillis: int64(max(devices, 1)) * 8000, MemoryBytes: int64(max(devices, 1)) * 64 * gib}
}

func (m *maker) services() {
	total := float64(m.Nodes*8) * m.ServiceLoad
	for n, asked := 1, 0.0; asked < total; n++ {
		s := m.serviceShape()
		instances := 1
		for instances < 64 && !m.chance(0.25) {
			instances++
		}
		asked += float64(max(instances*s.Devices, 1))
		e := Event{At: m.even(0, m.end/20), Kind: Deploy, Service: fmt.Sprintf("s%d", n), Project: fmt.Sprintf("p%d", m.IntN(projects)),
			Shape: s, Instances: instances}
		m.add(e)
		until := m.end
		if m.chance(0.1) {
			until = m.even(e.At, m.end)
			m.add(Event{At: until, Kind: Delete, Service: e.Service, Project: e.Project})
		}
		m.poisson(2*m.end/day, func(at float64) {
			to := max(1, int(math.Round(float64(instances)*m.even(0.5, 1.5))))
			if at > e.At && at < until {
				m.add(Event{At: at, Kind: Scale, Service: e.Service, Project: e.Project, Instances: to})
			}
		})
	}
}

func (m *maker) serviceShape() *Shape {
	s := m.shape([]int{1, 2, 4, 8}[m.pick(50, 20, 15, 15)])
	if m.chance(0.05) {
		s = &Shape{CPUMillis: 2000, MemoryBytes: 4 * gib}
	}
	s.Priority = 50 + 10*m.IntN(3)
	if s.Devices > 1 && m.chance(1.0/3) {
		s.Domain = "nvlink"
	}
	if m.chance(0.25) {
		s.Spread, s.Skew, s.Strict = "rack", 1+m.IntN(3), m.chance(0.5)
	}
	s.AntiAffinity = m.chance(0.1)
	return s
}

func (m *maker) jobs() {
	const median, sigma, longest = 600, 1.5, 12 * 3600
	const meanDevices = 0.4*1 + 0.2*2 + 0.15*4 + 0.15*8 + 0.1*5*8
	mean := median * math.Exp(sigma*sigma/2) * 0.93 // what is cut off at the longest is about 7 %
	count := float64(m.Nodes*8) * m.JobLoad * m.end / (mean * meanDevices)
	n := 0
	// Thinned: drawn at the highest rate, kept with the chance of the present one.
	m.poisson(count*1.6, func(at float64) {
		if !m.chance((1 + 0.6*math.Sin(2*math.Pi*at/day)) / 1.6) {
			return
		}
		n++
		s := m.shape([]int{1, 2, 4, 8, 8}[m.pick(40, 20, 15, 15, 10)])
		if s.Devices == 8 && m.chance(0.4) {
			s.Nodes = 2 + m.IntN(7)
		}
		s.Priority, s.Preemptible = m.IntN(21), true
		run := min(median*math.Exp(sigma*m.NormFloat64()), longest)
		m.add(Event{At: at, Kind: Deploy, Service: fmt.Sprintf("j%d", n), Project: fmt.Sprintf("p%d", m.IntN(projects)), Shape: s, Instances: 1, Run: max(run, 1)})
	})
}

func (m *maker) trouble() {
	nodeDays := float64(m.Nodes) * m.end / day * m.Trouble
	m.poisson(nodeDays/60, func(at float64) {
		e := Event{At: at, Kind: Crash, Node: m.IntN(m.Nodes), For: m.even(180, 1200)}
		if m.chance(0.1) {
			e.For = m.even(3600, 4*3600)
		}
		m.add(e)
	})
	m.poisson(nodeDays/60, func(at float64) {
		m.add(Event{At: at, Kind: Partition, Node: m.IntN(m.Nodes), For: m.even(5, 300)})
	})
	m.poisson(nodeDays*8/120, func(at float64) {
		m.add(Event{At: at, Kind: Fault, Node: m.IntN(m.Nodes), Device: m.IntN(8), For: m.even(600, 6*3600), Evict: m.chance(2.0 / 3)})
	})
}

func (m *maker) operations() {
	nodeDays := float64(m.Nodes) * m.end / day * m.Trouble
	m.poisson(nodeDays/30, func(at float64) {
		e := Event{At: at, Kind: Drain, Node: m.IntN(m.Nodes), For: m.even(1800, 7200), Deadline: 600}
		if m.chance(0.2) {
			e.Cancel = 180
		}
		m.add(e)
	})
	m.poisson(nodeDays/30, func(at float64) {
		m.add(Event{At: at, Kind: Cordon, Node: m.IntN(m.Nodes), For: m.even(600, 7200)})
	})
	changes := 0
	m.poisson(4*m.end/day, func(at float64) {
		changes++
		m.add(Event{At: at, Kind: Leader, Restart: changes%2 == 0})
	})
	for p := 0; p < projects; p += 4 {
		name, limit := fmt.Sprintf("p%d", p), max(m.Nodes*8/projects*3/2, 8)
		m.add(Event{Kind: Quota, Project: name, Devices: limit})
		m.add(Event{At: m.end / 3, Kind: Quota, Project: name, Devices: limit / 2})
		m.add(Event{At: 2 * m.end / 3, Kind: Quota, Project: name, Devices: limit})
	}
}
