package lookup

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStaleness(t *testing.T) {
	f := newFixture(t)
	var age time.Duration
	var unknown bool
	f.table.cfg.Staleness = func() (time.Duration, bool) { return age, !unknown }
	f.basics()
	f.put(service("iris", "s", "own"))
	f.table.rebuild()
	for _, c := range []struct {
		age              time.Duration
		unknown          bool
		query            string
		status           int
		staleness, stale string
		says             string
	}{
		{0, false, "", 200, "0", "", ""},
		{1500 * time.Millisecond, false, "", 200, "1.500", "", ""},
		{2001 * time.Millisecond, false, "", 200, "2.001", "true", ""},
		{time.Hour, false, "", 200, "3600.000", "true", ""},
		{0, true, "", 200, "unknown", "true", ""},
		{4 * time.Second, false, "&max_stale=5", 200, "4.000", "true", ""},
		{6 * time.Second, false, "&max_stale=5", 503, "6.000", "true", "no leader for 6.0 s"},
		{0, true, "&max_stale=5", 503, "unknown", "true", "can't say how old"},
		{0, false, "&max_stale=5", 200, "0", "", ""},
		{0, false, "&max_stale=0", 400, "", "", "whole seconds"},
		{0, false, "&max_stale=soon", 400, "", "", "whole seconds"},
	} {
		age, unknown = c.age, c.unknown
		w := f.get(http.MethodGet, irisPath+c.query, "root-secret")
		h := w.Header()
		if w.Code != c.status || h.Get(headerStaleness) != c.staleness || h.Get(headerStale) != c.stale || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%v (unknown %v)%s: %d, staleness %q, stale %q, %s", c.age, c.unknown, c.query, w.Code, h.Get(headerStaleness), h.Get(headerStale), w.Body)
		}
	}
}
