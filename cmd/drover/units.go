package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// shortID is how people see a UUID.
func shortID(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

// bytesText is a size in binary units with three digits that matter.
func bytesText(n int64) string {
	if n == 0 {
		return "0"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	s := strconv.FormatFloat(f, 'f', 1, 64)
	if f >= 100 || i == 0 {
		s = strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strings.TrimSuffix(s, ".0") + " " + units[i]
}

// cores is a number of millicores in cores.
func cores(millis int64) string { return strconv.FormatFloat(float64(millis)/1000, 'f', -1, 64) }

// duration is a length of time in its two largest units.
func duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return twoUnits(int(d.Minutes()), "m", int(d.Seconds())%60, "s")
	case d < 48*time.Hour:
		return twoUnits(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// twoUnits leaves out a second number of 0.
func twoUnits(large int, unit string, small int, smallUnit string) string {
	if small == 0 {
		return fmt.Sprint(large) + unit
	}
	return fmt.Sprint(large) + unit + fmt.Sprint(small) + smallUnit
}

// age is how long ago t was; empty when it is unset.
func (a *app) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return duration(a.now().Sub(t.AsTime()))
}

// when is a time in the local zone, with how far away it is.
func (a *app) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	d := a.now().Sub(t.AsTime())
	away := duration(d) + " ago"
	if d < 0 {
		away = "in " + duration(-d)
	}
	return fmt.Sprintf("%s (%s)", clock(t.AsTime()), away)
}

// clock is a local time for people.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// words joins a map as k=v in order of key.
func words(m map[string]string) string {
	parts := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

// stateCell colours the states of every noun.
func stateCell(state string) cell {
	switch state {
	case fleetv1.ServiceRunning, fleetv1.NodeReady, fleetv1.Healthy, fleetv1.ModelNormal, fleetv1.JobCompleted:
		return cell{text: state, colour: green}
	case fleetv1.ServiceAbnormal, fleetv1.NodeUnreachable, fleetv1.Unhealthy, fleetv1.InstanceFailed, fleetv1.Lost, fleetv1.Unresponsive:
		return cell{text: state, colour: red}
	case fleetv1.ServiceAlarm, fleetv1.ServiceDeploying, fleetv1.ServiceStopping, fleetv1.ServiceDeleting, fleetv1.EventWarning,
		fleetv1.InstancePulling, fleetv1.InstancePreparing, fleetv1.InstanceStarting, fleetv1.InstanceDraining, fleetv1.InstanceReclaiming:
		return cell{text: state, colour: yellow}
	}
	return cell{text: state}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// ofText is a part of a whole, in the whole's unit unless it is too small for that: "25.3/80 GiB".
func ofText(part, whole int64) string {
	size, w := unit(whole), bytesText(whole)
	if part == 0 || 10*part < size {
		return bytesText(part) + "/" + w
	}
	p := strconv.FormatFloat(float64(part)/float64(size), 'f', 1, 64)
	return strings.TrimSuffix(p, ".0") + "/" + w
}

// unit is the largest binary unit that n has at least one of, in bytes.
func unit(n int64) int64 {
	u := int64(1)
	for n/u >= 1024 {
		u *= 1024
	}
	return u
}

// ranges names ascending numbers: "0–3, 6".
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		part := strconv.Itoa(numbers[i])
		switch end - i {
		case 0:
		case 1:
			part += ", " + strconv.Itoa(numbers[end])
		default:
			part += "–" + strconv.Itoa(numbers[end])
		}
		parts = append(parts, part)
		i = end + 1
	}
	return strings.Join(parts, ", ")
}
