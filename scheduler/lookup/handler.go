package lookup

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// ServeHTTP answers GET /v1/{project}/services/{service}/predict/endpoints?type=host_endpoints.
func (t *Table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	project, service, ok := splitPath(r.URL.Path)
	if !ok {
		fail(w, http.StatusNotFound, "there is nothing at this path; look-ups are at /v1/{project}/services/{service}/predict/endpoints")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "look-ups use GET")
		return
	}
	now := t.now.Load()
	caller, status, msg := now.authenticate(r.Header)
	if status != 0 {
		fail(w, status, msg)
		return
	}
	bound := time.Duration(0)
	if r.URL.RawQuery != hostEndpoints {
		var msg string
		if bound, msg = readQuery(r.URL.RawQuery); msg != "" {
			fail(w, http.StatusBadRequest, msg)
			return
		}
	}
	if msg := t.stamp(w.Header(), bound); msg != "" {
		fail(w, http.StatusServiceUnavailable, msg)
		return
	}
	e := now.services.at(key{project, service})
	if e == nil || project != caller.Project {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is no service %q in project %q", service, project))
		return
	}
	e.answer.Load().serve(w, r)
}

const hostEndpoints = "type=host_endpoints"

// splitPath takes the two names out of the path without allocating.
func splitPath(p string) (project, service string, ok bool) {
	p, ok = strings.CutPrefix(p, "/v1/")
	if !ok {
		return "", "", false
	}
	if p, ok = strings.CutSuffix(p, "/predict/endpoints"); !ok {
		return "", "", false
	}
	project, service, ok = strings.Cut(p, "/services/")
	return project, service, ok && project != "" && service != "" && !strings.Contains(service, "/") && !strings.Contains(project, "/")
}

// authenticate finds the caller by the X-Auth-Token header; status is 0 when there is one.
func (s *snapshot) authenticate(h http.Header) (c auth.Caller, status int, msg string) {
	if !s.bootstrapped {
		return c, http.StatusServiceUnavailable, auth.ErrNotReady.Error()
	}
	values := h["X-Auth-Token"]
	if len(values) != 1 || values[0] == "" {
		return c, http.StatusUnauthorized, "the header X-Auth-Token is missing"
	}
	sum := hash(values[0])
	found := s.tokens[sum]
	if found == nil || subtle.ConstantTimeCompare(found.sum[:], sum[:]) != 1 {
		return c, http.StatusUnauthorized, "the token in X-Auth-Token is not known to this cluster"
	}
	if found.caller.Role == fleetv1.RoleAgent {
		return c, http.StatusForbidden, "an agent's token may not look services up"
	}
	return found.caller, 0, ""
}

func hash(secret string) [sha256.Size]byte {
	var buf [128]byte
	return sha256.Sum256(append(buf[:0], secret...))
}

func (a *answer) serve(w http.ResponseWriter, r *http.Request) {
	if a.refusal != "" {
		fail(w, http.StatusConflict, a.refusal)
		return
	}
	h := w.Header()
	h["Content-Type"], h["Etag"], h["Cache-Control"] = a.contentType, a.etag, a.cacheControl
	if match := r.Header["If-None-Match"]; len(match) == 1 && match[0] == a.etag[0] {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Length"] = a.contentLength
	if r.Method == http.MethodGet {
		w.Write(a.body) // a client that went away is its own loss
	}
}

// fail writes an error in the form that clients of SPEC §4 read.
func fail(w http.ResponseWriter, status int, msg string) {
	body, err := json.Marshal(struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
	}{fmt.Sprintf("DROVER.%04d", status), msg})
	if err != nil {
		panic(fmt.Sprintf("lookup: encode two strings: %v", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
}
