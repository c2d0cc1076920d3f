package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ledger collects all that is told of instances and of devices from one reading of the agent's ledger, so that
// the families of a scrape agree on who holds what.
type ledger struct {
	read      func() []*fleetv1.Instance
	instances *instances
	devices   *deviceCollector
	agent     *agent
}

// Describe implements prometheus.Collector.
func (l *ledger) Describe(ch chan<- *prometheus.Desc) {
	l.instances.describe(ch)
	l.devices.describe(ch)
	l.agent.describe(ch)
}

// Collect implements prometheus.Collector.
func (l *ledger) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all := l.read()
	l.agent.collect(ch, all)
	l.devices.collect(ch, all)
	l.instances.collect(ctx, ch, all)
}

// holders answers which instance holds each device. Should two claim one, the younger plan's has it: its epoch
// fences the other off.
func holders(all []*fleetv1.Instance) map[string]*fleetv1.Instance {
	held := map[string]*fleetv1.Instance{}
	for _, in := range all {
		if in.GetObserved().GetState() == fleetv1.InstanceReaped {
			continue
		}
		for _, id := range in.GetSpec().GetDeviceIds() {
			if other := held[id]; other == nil || in.GetSpec().GetEpoch() > other.GetSpec().GetEpoch() {
				held[id] = in
			}
		}
	}
	return held
}
