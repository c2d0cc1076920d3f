package session

import (
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// mostSamples of one node are kept: more devices no host has.
const mostSamples = 1024

// samples keeps what the nodes' devices measured last.
type samples struct {
	mu    sync.RWMutex
	nodes map[string]map[string]*fleetv1.DeviceSample
}

func (s *samples) update(node string, news []*fleetv1.DeviceSample) {
	if len(news) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		s.nodes = map[string]map[string]*fleetv1.DeviceSample{}
	}
	of := s.nodes[node]
	if of == nil {
		of = map[string]*fleetv1.DeviceSample{}
		s.nodes[node] = of
	}
	for _, sample := range news {
		if of[sample.GetDeviceId()] != nil || len(of) < mostSamples {
			of[sample.GetDeviceId()] = sample
		}
	}
}

func (s *samples) get(node, device string) *fleetv1.DeviceSample {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nodes[node][device]
}

func (s *samples) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.nodes)
}
