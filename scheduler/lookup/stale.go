package lookup

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// readQuery answers the age beyond which the caller doesn't want an answer, 0 when he takes any; msg says what is wrong.
func readQuery(query string) (bound time.Duration, msg string) {
	q, err := url.ParseQuery(query)
	if err != nil || q.Get("type") != "host_endpoints" {
		return 0, `the query must be "type=host_endpoints"`
	}
	text := q.Get("max_stale")
	if text == "" {
		return 0, ""
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 || seconds > maxBound {
		return 0, fmt.Sprintf("max_stale is %q: want whole seconds, 1–%d", text, maxBound)
	}
	return time.Duration(seconds) * time.Second, ""
}

// maxBound of max_stale, in seconds: a day.
const maxBound = 86400

// Headers of every answer.
const (
	headerStaleness = "Drover-Staleness" // seconds, or "unknown"
	headerStale     = "Drover-Stale"     // "true" above staleAfter
)

// staleAfter is the age from which an answer is marked.
const staleAfter = fleetv1.StaleAfterMillis * time.Millisecond

// stamp says in the headers how old the answer may be; msg is why it is too old for the caller.
func (t *Table) stamp(h http.Header, bound time.Duration) (msg string) {
	age, known := t.cfg.Staleness()
	switch {
	case known && age == 0:
		h[headerStaleness] = t.fresh
		return ""
	case known:
		h[headerStaleness] = []string{strconv.FormatFloat(age.Seconds(), 'f', 3, 64)}
	default:
		h[headerStaleness] = []string{"unknown"}
	}
	if !known || age > staleAfter {
		h[headerStale] = []string{"true"}
	}
	switch {
	case bound == 0 || known && age <= bound:
		return ""
	case !known:
		return "this scheduler has heard no leader since it started, and can't say how old its answer is; ask another one"
	}
	return fmt.Sprintf("this scheduler has heard no leader for %.1f s, and at most %v was asked for; ask another one", age.Seconds(), bound)
}
