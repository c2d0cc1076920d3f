package api

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
)

const maxInt32 = 1<<31 - 1

// Limits of what a model may describe.
const (
	maxDocuments = 3
	maxRoutes    = 64
	maxURL       = 2048
)

// completeModelSpec fills the defaults in, except for the version, which depends on what exists.
func completeModelSpec(s *fleetv1.ModelSpec) {
	if s.Api == nil {
		s.Api = &fleetv1.ModelAPI{}
	}
	fill(&s.Api.Protocol, "http")
	fillInt(&s.Api.Port, 8080)
	fill(&s.RequestMode, "sync")
	if len(s.DeployTypes) == 0 {
		s.DeployTypes = []string{"real-time"}
	}
	for _, r := range s.GetApis() {
		fill(&r.Url, "/")
		fill(&r.Method, "POST")
		for _, schema := range []*fleetv1.APISchema{r.GetRequest(), r.GetResponse()} {
			if schema != nil {
				fill(&schema.ContentType, batch.ContentJSON)
			}
		}
	}
	if h := s.GetHealth(); h != nil {
		if h.GetCheckMethod() == "HTTP" {
			fill(&h.Protocol, "http")
			fill(&h.Url, "/health")
		}
		fillInt(&h.PeriodSeconds, 10)
		fillInt(&h.TimeoutSeconds, 5)
		fillInt(&h.FailureThreshold, 3)
	}
}

func fill(s *string, standard string) {
	if *s == "" {
		*s = standard
	}
}

func fillInt(n *int32, standard int32) {
	if *n == 0 {
		*n = standard
	}
}

// model checks a completed model.
func (v *violations) model(field string, m *fleetv1.Model) {
	v.meta(field, m.GetMeta(), false)
	s, spec := m.GetSpec(), field+".spec"
	if s.GetVersion() != "" && !validVersion(s.GetVersion()) {
		v.add(spec+".version", "%q is not of the form x.y.z, with numbers of at most 9 digits without leading zeros", s.GetVersion())
	}
	v.description(spec+".description", s.GetDescription())
	if s.GetImage() == "" {
		v.add(spec+".image", "is missing")
	} else if err := registry.Check(s.GetImage()); err != nil {
		v.add(spec+".image", "%v", err)
	}
	v.oneOf(spec+".api.protocol", s.GetApi().GetProtocol(), "http", "https", "grpc", "tcp")
	v.between(spec+".api.port", int64(s.GetApi().GetPort()), 1, 65535)
	v.health(spec+".health", s.GetHealth())
	v.command(spec+".command", s.GetCommand())
	for i, t := range s.GetDeployTypes() {
		at := fmt.Sprintf("%s.deploy_types[%d]", spec, i)
		v.oneOf(at, t, "real-time", "batch")
		if slices.Contains(s.GetDeployTypes()[:i], t) {
			v.add(at, "%q stands twice", t)
		}
	}
	v.oneOf(spec+".request_mode", s.GetRequestMode(), "sync", "async")
	v.routes(spec+".apis", s.GetApis())
	v.documents(spec+".documents", s.GetDocuments())
	v.scores(spec+".metrics", s.GetMetrics())
	if s.GetArch() != "" {
		v.oneOf(spec+".arch", s.GetArch(), "amd64", "arm64")
	}
	if s.GetAccelerator() != "" {
		v.oneOf(spec+".accelerator", s.GetAccelerator(), "nvidia", "ascend", "fake")
	}
}

func validVersion(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return false
	}
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil || len(p) > 9 || strconv.FormatUint(n, 10) != p {
			return false
		}
	}
	return true
}

func (v *violations) health(field string, h *fleetv1.HealthCheck) {
	if h == nil {
		return
	}
	v.oneOf(field+".check_method", h.GetCheckMethod(), "HTTP", "TCP", "GRPC", "EXEC")
	v.between(field+".period_seconds", int64(h.GetPeriodSeconds()), 1, maxInt32)
	v.between(field+".initial_delay_seconds", int64(h.GetInitialDelaySeconds()), 0, maxInt32)
	v.between(field+".timeout_seconds", int64(h.GetTimeoutSeconds()), 1, maxInt32)
	v.between(field+".failure_threshold", int64(h.GetFailureThreshold()), 1, maxInt32)
	only := func(part, method string, set bool) {
		if set && h.GetCheckMethod() != method {
			v.add(field+"."+part, "is only for check_method %q", method)
		}
	}
	only("url", "HTTP", h.GetUrl() != "")
	only("protocol", "HTTP", h.GetProtocol() != "")
	only("command", "EXEC", len(h.GetCommand()) > 0)
	only("service", "GRPC", h.GetService() != "")
	switch h.GetCheckMethod() {
	case "HTTP":
		v.oneOf(field+".protocol", h.GetProtocol(), "http", "https")
		v.urlPath(field+".url", h.GetUrl())
	case "EXEC":
		if len(h.GetCommand()) == 0 {
			v.add(field+".command", "is missing: check_method \"EXEC\" needs one")
		}
		v.command(field+".command", h.GetCommand())
	}
}

func (v *violations) urlPath(field, s string) {
	u, err := url.Parse(s)
	if len(s) > maxURL || !path.IsAbs(s) || strings.HasPrefix(s, "//") || hasControl(s) || err != nil || u.Host != "" {
		v.add(field, "%q is not an URL path such as \"/health\"", s)
	}
}

func (v *violations) routes(field string, routes []*fleetv1.APIRoute) {
	if len(routes) > maxRoutes {
		v.add(field, "has %d entries, at most %d are allowed", len(routes), maxRoutes)
	}
	seen := map[string]bool{}
	for i, r := range routes {
		at := fmt.Sprintf("%s[%d]", field, i)
		v.urlPath(at+".url", r.GetUrl())
		v.oneOf(at+".method", r.GetMethod(), "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
		if key := r.GetMethod() + " " + r.GetUrl(); seen[key] {
			v.add(at, "%s stands twice", key)
		} else {
			seen[key] = true
		}
		for part, schema := range map[string]*fleetv1.APISchema{"request": r.GetRequest(), "response": r.GetResponse()} {
			if schema != nil {
				v.oneOf(at+"."+part+".Content-type", schema.GetContentType(), batch.ContentJSON, batch.ContentForm)
			}
		}
	}
}

func (v *violations) documents(field string, docs []*fleetv1.Document) {
	if len(docs) > maxDocuments {
		v.add(field, "has %d entries, at most %d are allowed", len(docs), maxDocuments)
	}
	for i, d := range docs {
		at := fmt.Sprintf("%s[%d]", field, i)
		if n := utf8.RuneCountInString(d.GetName()); n < 1 || n > maxDescription {
			v.add(at+".name", "must have 1–%d characters", maxDescription)
		}
		u, err := url.Parse(d.GetUrl())
		if err != nil || len(d.GetUrl()) > maxURL || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			v.add(at+".url", "%q is not an http or https URL", d.GetUrl())
		}
	}
}

func (v *violations) scores(field string, s *fleetv1.Scores) {
	if s == nil {
		return
	}
	for _, score := range []struct {
		name  string
		value *float64
	}{{"f1", s.F1}, {"recall", s.Recall}, {"precision", s.Precision}, {"accuracy", s.Accuracy}} {
		if score.value != nil && !(*score.value >= 0 && *score.value <= 1) {
			v.add(field+"."+score.name, "%v is out of range 0–1", *score.value)
		}
	}
}
