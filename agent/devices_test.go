package agent

import (
	"strings"
	"testing"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestDeviceEvents(t *testing.T) {
	well := deviceNote{health: fleetv1.Healthy}
	observed := deviceNote{health: fleetv1.Healthy, action: fleetv1.ActionObserve}
	drained := deviceNote{health: fleetv1.Unhealthy, action: fleetv1.ActionDrain}
	quarantined := deviceNote{health: fleetv1.Unhealthy, action: fleetv1.ActionDrain, quarantined: true}
	silent := deviceNote{health: fleetv1.Unresponsive, action: fleetv1.ActionDrain}
	evicted := deviceNote{health: fleetv1.Unhealthy, action: fleetv1.ActionEvict}
	reset := deviceNote{health: fleetv1.Unhealthy, action: fleetv1.ActionResetNeeded}
	lost := deviceNote{health: fleetv1.Lost, action: fleetv1.ActionRebootNeeded}
	raw := deviceNote{health: fleetv1.Unhealthy} // without a judge
	for _, c := range []struct {
		before, now deviceNote
		want        string
	}{
		{well, observed, "Warning DeviceObserved device g (H100) is Healthy (observe): why"},
		{well, drained, "Abnormal DeviceFailed device g (H100) is Unhealthy (drain): why"},
		{well, raw, "Abnormal DeviceFailed device g (H100) is Unhealthy: why"},
		{well, silent, "Abnormal DeviceFailed device g (H100) is Unresponsive (drain): why"},
		{silent, drained, "Abnormal DeviceFailed"},
		{observed, evicted, "Abnormal DeviceFailed"},
		{evicted, reset, "Abnormal DeviceFailed device g (H100) is Unhealthy (reset-needed): why"},
		{reset, lost, "Abnormal DeviceFailed"},
		{lost, drained, "Warning DeviceFailed device g (H100) is Unhealthy (drain): why, which is less than before"},
		{quarantined, drained, "Warning DeviceFailed"},
		{well, quarantined, "Abnormal DeviceQuarantined device g (H100) is Unhealthy (drain): why"},
		{drained, quarantined, "Abnormal DeviceQuarantined"},
		{drained, observed, "Normal DeviceRecovered device g (H100) can be used again; observe: why"},
		{observed, well, "Normal DeviceRecovered device g (H100) is healthy again"},
		{quarantined, well, "Normal DeviceRecovered device g (H100) is healthy again"},
	} {
		kind, reason, message := deviceEvent(devices.Device{ID: "g", Model: "H100", Reason: "why"}, c.before, c.now)
		got := strings.Join([]string{kind, reason, message}, " ")
		if !strings.HasPrefix(got, c.want) || len(strings.Fields(c.want)) > 2 && got != c.want {
			t.Errorf("from %+v to %+v: %q, want %q", c.before, c.now, got, c.want)
		}
	}
}
