package lookup

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/drover-fleet/drover/scheduler/auth"
)

// ServeHTTP answers GET /v1/{project}/services/{service}/predict/endpoints?type=host_endpoints.
func (t *Table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if no := t.serve(w, r); no != nil {
		no.write(w)
	}
}

// serve answers a look-up, or says why not and has written nothing.
func (t *Table) serve(w http.ResponseWriter, r *http.Request) *refusal {
	if r.URL.RawPath != "" {
		return refuse(http.StatusBadRequest, "the path has encoded characters: names are of letters, digits, - and _, as they are")
	}
	project, service, ok := splitPath(r.URL.Path)
	if !ok {
		return refuse(http.StatusNotFound, "there is nothing at this path; look-ups are at /v1/{project}/services/{service}/predict/endpoints")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return refuse(http.StatusMethodNotAllowed, "look-ups use GET")
	}
	caller, no := t.authenticate(r)
	if no != nil {
		return no
	}
	if no = t.take(caller); no != nil { // whatever is asked
		return no
	}
	var q question
	if r.URL.RawQuery != hostEndpoints {
		if q, no = readQuery(r.URL.RawQuery); no != nil {
			return no
		}
	}
	if q.network, no = t.networkOf(q.network, r.RemoteAddr); no != nil {
		return no
	}
	e, no := t.find(caller, project, service)
	if no != nil {
		return no
	}
	switch {
	case q.watch && r.Method != http.MethodGet:
		return refuse(http.StatusBadRequest, "watch=true goes with GET alone")
	case q.watch:
		return t.serveWatch(w, r, caller, e, q)
	case q.blocks:
		if no := t.serveBlocking(w, r, caller, e, q); no != nil {
			return no
		}
	}
	if no := t.stamp(w.Header(), q.bound); no != nil {
		return no
	}
	a := e.answer.Load()
	if a.refusal != nil {
		return a.refusal
	}
	a.in(q.network).write(w, r)
	return nil
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

// authenticate finds out who calls, and that the caller may look services up.
func (t *Table) authenticate(r *http.Request) (auth.Caller, *refusal) {
	caller, err := t.cfg.Authenticate(r)
	if err != nil {
		no := refuse(auth.HTTPStatus(err), "%v", err)
		if errors.Is(err, auth.ErrUnsigned) {
			no.reason = reasonUnsigned
		}
		return caller, no
	}
	return caller, nil
}

// take counts a look-up, a watch as one, and refuses what is beyond a limit.
func (t *Table) take(c auth.Caller) *refusal {
	user := c.User
	over := t.cfg.Limiter.Take(c.Account, user)
	if over == nil {
		return nil
	}
	no := &refusal{status: http.StatusTooManyRequests, reason: reasonAccount, retryAfter: over.RetryAfter}
	what, name := "account", c.Account
	if over.User {
		no.reason, what, name = reasonUser, "user", user
	}
	no.msg = fmt.Sprintf("%s %q may look services up %d times a minute: ask again in %d s, or open a watch, which counts once",
		what, name, over.Limit, no.retrySeconds())
	return no
}

// find finds a service by its name or ID. Another project's is absent.
func (t *Table) find(c auth.Caller, project, service string) (*entry, *refusal) {
	e := t.now.Load().services.at(key{project, service})
	if e == nil || project != c.Project {
		return nil, refuse(http.StatusNotFound, "there is no service %q in project %q", service, project)
	}
	return e, nil
}

func (p *page) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Content-Type"], h["Etag"], h["Cache-Control"] = p.contentType, p.etag, p.cacheControl
	if match := r.Header["If-None-Match"]; len(match) == 1 && match[0] == p.etag[0] {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Length"] = p.contentLength
	if r.Method == http.MethodGet {
		w.Write(p.body) // a client that went away is its own loss
	}
}
