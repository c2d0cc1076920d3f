package lookup

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// question is what a caller wants to know of a service.
type question struct {
	network string        // "" is the default one
	bound   time.Duration // beyond which an answer is too old; 0 takes any
	watch   bool          // every answer from now on
	blocks  bool          // none before it is newer than index, or wait is over
	index   uint64
	wait    time.Duration
}

const (
	maxBound    = 86400 // of max_stale, in seconds: a day
	maxWait     = 60 * time.Second
	defaultWait = 30 * time.Second
)

// readQuery reads the query of a look-up.
func readQuery(text string) (q question, no *refusal) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return q, refuse(http.StatusBadRequest, `the query can't be read: want "type=host_endpoints", and "&" between parameters`)
	}
	for _, name := range []string{"type", "max_stale", "watch", "index", "wait", "network"} {
		if len(values[name]) > 1 {
			return q, refuse(http.StatusBadRequest, "%s stands %d times in the query: want it once", name, len(values[name]))
		}
	}
	switch kind := values.Get("type"); kind {
	case "host_endpoints":
	case "":
		return q, refuse(http.StatusBadRequest, `the query names no type: want "type=host_endpoints"`)
	default:
		return q, refuse(http.StatusBadRequest, `type %q is not known: want "type=host_endpoints"`, kind)
	}
	q.network = values.Get("network")
	if text := values.Get("max_stale"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 1 || seconds > maxBound {
			return q, refuse(http.StatusBadRequest, "max_stale is %q: want whole seconds, 1–%d", text, maxBound)
		}
		q.bound = time.Duration(seconds) * time.Second
	}
	switch text := values.Get("watch"); text {
	case "", "false":
	case "true":
		q.watch = true
	default:
		return q, refuse(http.StatusBadRequest, `watch is %q: want "true" or "false"`, text)
	}
	return q, q.readIndex(values)
}

func (q *question) readIndex(values url.Values) *refusal {
	index, wait := values.Get("index"), values.Get("wait")
	switch {
	case index == "" && wait == "":
		return nil
	case index == "":
		return refuse(http.StatusBadRequest, "wait without index: say in index which answer is known, 0 for none")
	case q.watch:
		return refuse(http.StatusBadRequest, "index together with watch=true: a watch sends the present answer first, leave index out")
	}
	var err error
	if q.index, err = strconv.ParseUint(index, 10, 64); err != nil {
		return refuse(http.StatusBadRequest, "index is %q: want the index of an answer", index)
	}
	if q.blocks, q.wait = true, defaultWait; wait != "" {
		if q.wait, err = time.ParseDuration(wait); err != nil || q.wait < 0 || q.wait > maxWait {
			return refuse(http.StatusBadRequest, "wait is %q: want a time such as 30s, at most %v", wait, maxWait)
		}
	}
	return nil
}
