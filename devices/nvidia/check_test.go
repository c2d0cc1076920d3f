//go:build cgo && linux

package nvidia_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
)

// equal compares, and shows what pointers lead to when they differ.
func equal(t *testing.T, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		w, _ := json.Marshal(want)
		g, _ := json.Marshal(got)
		t.Errorf("want %s\n got %s", w, g)
	}
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q does not contain %q", text, part)
	}
}

func listed(t *testing.T, found []devices.Device, n int) {
	t.Helper()
	if len(found) != n {
		t.Fatalf("%d devices, want %d: %+v", len(found), n, found)
	}
}

func recent(t *testing.T, at time.Time) {
	t.Helper()
	if d := time.Since(at); d < 0 || d > time.Minute {
		t.Errorf("the time %v is not now", at)
	}
}
