package state

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Usage is what quotas limit. A gang counts as one instance on each of its nodes.
type Usage struct {
	CPUMillis, MemoryBytes, Instances int64
	// Devices by model, whole ones and slices alike. In a view it is shared and must not be written to.
	Devices map[string]int64
}

// Add adds n times o.
func (u *Usage) Add(o Usage, n int64) {
	u.CPUMillis += n * o.CPUMillis
	u.MemoryBytes += n * o.MemoryBytes
	u.Instances += n * o.Instances
	for model, count := range o.Devices {
		if u.Devices == nil {
			u.Devices = map[string]int64{}
		}
		u.Devices[model] += n * count
	}
}

// AddInstance adds n times what an instance of this spec counts as. Devices whose model isn't noted count as of
// model "".
func (u *Usage) AddInstance(s *fleetv1.InstanceSpec, n int64) {
	u.CPUMillis += n * s.GetCpuMillis()
	u.MemoryBytes += n * s.GetMemoryBytes()
	u.Instances += n
	for i := range s.GetDeviceIds() {
		model := ""
		if models := s.GetDeviceModels(); i < len(models) {
			model = models[i]
		}
		if u.Devices == nil {
			u.Devices = map[string]int64{}
		}
		u.Devices[model] += n
	}
}

// Matching is how many of the devices are of a model that matches the pattern.
func (u *Usage) Matching(pattern string) (n int64) {
	for model, count := range u.Devices {
		if MatchesModel(pattern, model) {
			n += count
		}
	}
	return n
}

// MatchesModel says whether every device of a model matches the pattern, which is an exact model or a glob. The
// model may be a glob too, and empty for any.
func MatchesModel(pattern, model string) bool {
	if !strings.ContainsAny(model, globs) {
		ok, err := path.Match(pattern, model)
		return ok && err == nil
	}
	literal, all := strings.CutSuffix(pattern, "*")
	return pattern == model || all && !strings.ContainsAny(literal, globs) && strings.HasPrefix(model, literal)
}

// globs are the characters that are special in patterns.
const globs = `*?[\`

// Excess is a limit of a quota that would be exceeded, in words for people.
type Excess struct {
	Resource          string // "CPU", "memory", "instances" or, for example, "devices H100*"
	Limit, Used, More string // amounts with their units
}

func (e *Excess) String() string {
	return fmt.Sprintf("%s: %s of %s are held, %s more are asked for", e.Resource, e.Used, e.Limit, e.More)
}

// Exceeded is the first limit that more on top of used would exceed, or nil. What asks for nothing of a
// resource never exceeds the limit of it, however much is used.
func Exceeded(q *fleetv1.QuotaSpec, used, more Usage) *Excess {
	if q == nil {
		return nil
	}
	over := func(limit *int64, used, more int64, resource string, format func(int64) string) *Excess {
		if limit == nil || more <= 0 || used+more <= *limit {
			return nil
		}
		return &Excess{resource, format(*limit), format(used), format(more)}
	}
	if e := over(q.Instances, used.Instances, more.Instances, "instances", plain); e != nil {
		return e
	}
	if e := over(q.CpuMillis, used.CPUMillis, more.CPUMillis, "CPU", cores); e != nil {
		return e
	}
	if e := over(q.MemoryBytes, used.MemoryBytes, more.MemoryBytes, "memory", size); e != nil {
		return e
	}
	for _, d := range q.GetDevices() {
		if e := over(&d.Count, used.Matching(d.GetModel()), more.Matching(d.GetModel()), "devices "+d.GetModel(), plain); e != nil {
			return e
		}
	}
	return nil
}

func plain(n int64) string { return strconv.FormatInt(n, 10) }

func cores(millis int64) string { return fmt.Sprintf("%g cores", float64(millis)/1000) }

// size formats bytes with the largest unit that keeps the amount exact to two decimals.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	v, unit := float64(n), 0
	for v >= 1024 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return strconv.FormatFloat(float64(int64(v*100+0.5))/100, 'f', -1, 64) + " " + units[unit]
}

// checkQuota finds a limit that the instances of a part, which are of one project, would exceed together.
func (a *applying) checkQuota(instances []*fleetv1.Instance) (RejectReason, string) {
	if len(instances) == 0 {
		return "", ""
	}
	project := instances[0].GetMeta().GetProject()
	quota := a.Quota(project)
	if quota == nil {
		return "", ""
	}
	var more Usage
	for _, i := range instances {
		more.AddInstance(i.GetSpec(), 1)
	}
	if e := Exceeded(quota.GetSpec(), a.ProjectUsage(project), more); e != nil {
		return RejectQuota, fmt.Sprintf("quota of project %s would be exceeded: %s", project, e)
	}
	return "", ""
}
