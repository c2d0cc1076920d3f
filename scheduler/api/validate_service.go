package api

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Limits and defaults of services (SPEC §3).
const (
	maxInstances      = 100_000
	maxVersions       = 100
	maxMounts         = 64
	standardTimeout   = 20
	standardGrace     = 30
	maxGrace          = 180
	standardRenew     = 60
	maxRenew          = 86400
	maxAutoStopHours  = 24
	allWeight         = 100
	standardInstances = 1
)

// sorted iterates over a map in the order of its keys, so that errors come in the same order each time.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// completeServiceSpec fills the defaults in, except for model versions, which depend on what exists.
func completeServiceSpec(s *fleetv1.ServiceSpec) {
	fill(&s.Network, fleetv1.NetworkBridge)
	fillInt(&s.MaxInvalidInstances, 1)
	if s.GracePeriodSeconds == nil {
		s.GracePeriodSeconds = proto.Int32(standardGrace)
	}
	sayOnce(s)
	if s.OnDisconnect == nil {
		s.OnDisconnect = &fleetv1.OnDisconnect{}
	}
	if d := s.GetOnDisconnect(); d.ReplaceAfterSeconds == nil {
		d.ReplaceAfterSeconds = proto.Int32(standardRenew)
	}
	if d := s.GetOnDisconnect(); d.Keep == nil {
		d.Keep = proto.Bool(true)
	}
	for _, version := range s.GetVersions() {
		fillInt(&version.Instances, standardInstances)
		fillInt(&version.TimeoutMinutes, standardTimeout)
		completePlacement(version)
	}
	if len(s.GetVersions()) == 1 {
		fillInt(&s.Versions[0].Weight, allWeight)
	}
}

// sayOnce moves what older clients and schedulers say in reschedule_after_seconds to on_disconnect. It leaves a
// contradiction standing.
func sayOnce(s *fleetv1.ServiceSpec) {
	old := s.RescheduleAfterSeconds
	if old == nil {
		return
	}
	if s.OnDisconnect == nil {
		s.OnDisconnect = &fleetv1.OnDisconnect{}
	}
	if d := s.GetOnDisconnect(); d.ReplaceAfterSeconds == nil || d.GetReplaceAfterSeconds() == *old {
		d.ReplaceAfterSeconds, s.RescheduleAfterSeconds = old, nil
	}
}

// service checks a completed service by itself, without what it refers to.
func (v *violations) service(field string, s *fleetv1.Service) {
	v.meta(field, s.GetMeta(), false)
	spec, at := s.GetSpec(), field+".spec"
	v.description(at+".description", spec.GetDescription())
	v.name(at+".pool", spec.GetPool(), false)
	v.oneOf(at+".network", spec.GetNetwork(), fleetv1.NetworkBridge, fleetv1.NetworkHost)
	if spec.GetJobId() != "" {
		v.add(at+".job_id", "is set for the services of jobs, which nobody deploys: leave it out, or submit a job")
	}
	v.between(at+".auto_stop_hours", int64(spec.GetAutoStopHours()), 0, maxAutoStopHours)
	v.between(at+".max_invalid_instances", int64(spec.GetMaxInvalidInstances()), 1, maxInstances)
	v.between(at+".grace_period_seconds", int64(spec.GetGracePeriodSeconds()), 0, maxGrace)
	if old := spec.RescheduleAfterSeconds; old != nil {
		v.add(at+".reschedule_after_seconds", "%d is not what on_disconnect.replace_after_seconds says (%d): leave it out",
			*old, spec.GetOnDisconnect().GetReplaceAfterSeconds())
	}
	v.between(at+".on_disconnect.replace_after_seconds", int64(spec.GetOnDisconnect().GetReplaceAfterSeconds()), 0, maxRenew)
	if n := len(spec.GetVersions()); n < 1 || n > maxVersions {
		v.add(at+".versions", "has %d entries; 1–%d are allowed", n, maxVersions)
		return
	}
	total, outOfRange := int32(0), false
	seen := map[string]int{}
	for i, version := range spec.GetVersions() {
		here := fmt.Sprintf("%s.versions[%d]", at, i)
		v.serviceVersion(here, version, spec.GetNetwork())
		if w := version.GetWeight(); w < 0 || w > allWeight {
			v.add(here+".weight", "%d is out of range 0–%d; weights must add up to %d", w, allWeight, allWeight)
			outOfRange = true
		}
		total += version.GetWeight()
		key := version.GetModel() + " " + version.GetModelVersion()
		if first, twice := seen[key]; twice {
			v.add(here, "is the same model version as versions[%d]", first)
		} else {
			seen[key] = i
		}
	}
	if !outOfRange && total != allWeight {
		v.add(at+".versions", "the weights add up to %d; they must add up to %d", total, allWeight)
	}
}

func (v *violations) serviceVersion(field string, version *fleetv1.ServiceVersion, network string) {
	v.name(field+".model", version.GetModel(), false)
	if mv := version.GetModelVersion(); mv != "" && !validVersion(mv) {
		v.add(field+".model_version", "%q is not of the form x.y.z", mv)
	}
	v.name(field+".flavor", version.GetFlavor(), true)
	v.between(field+".instances", int64(version.GetInstances()), 1, maxInstances)
	v.env(field+".env", version.GetEnv(), network)
	v.between(field+".timeout_minutes", int64(version.GetTimeoutMinutes()), 3, 120)
	if n := len(version.GetMounts()); n > maxMounts {
		v.add(field+".mounts", "has %d entries, at most %d are allowed", n, maxMounts)
	}
	v.mounts(field+".mounts", version.GetMounts())
	v.limits(field+".limits", version.GetLimits())
	v.placement(field, version)
}
