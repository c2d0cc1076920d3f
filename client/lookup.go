package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Endpoint is where a client calls one ready instance itself, as schema://ip:port.
type Endpoint struct {
	Schema       string `json:"schema"`
	IP           string `json:"ip"`
	Port         int    `json:"port"`
	Model        string `json:"model"`
	ModelVersion string `json:"model_version"`
	Weight       int    `json:"weight"`
	InstanceID   string `json:"instance_id"`
}

// Endpoints is one answer of the look-up. It may be used for MaxAge without asking again.
type Endpoints struct {
	HostEndpoints []Endpoint `json:"host_endpoints"`
	Index         uint64     `json:"index"`
	MaxAgeSeconds int        `json:"max_age_seconds"`
	// Stale means that the scheduler has heard no leader for 2 s or more; Staleness is for how long, when it knows.
	Stale     bool          `json:"-"`
	Staleness time.Duration `json:"-"`
}

// MaxAge is how long the answer may be used.
func (e Endpoints) MaxAge() time.Duration { return time.Duration(e.MaxAgeSeconds) * time.Second }

// LookupError is an answer of the look-up that is not a list of endpoints.
type LookupError struct {
	Status  int    // of HTTP
	Code    string // "DROVER.0404"; empty when the answer was not Drover's
	Message string
	// RetryAfter is set with 429: ask no earlier.
	RetryAfter time.Duration
}

func (e *LookupError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("endpoint look-up: HTTP %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("endpoint look-up: %s: %s", e.Code, e.Message)
}

const maxLookupAnswer = 16 << 20

// LookupURL is the address that Lookup asks; base is "http://host:port" of a scheduler's HTTP.
func LookupURL(base, project, service string) string {
	return fmt.Sprintf("%s/v1/%s/services/%s/predict/endpoints?type=host_endpoints",
		strings.TrimSuffix(base, "/"), url.PathEscape(project), url.PathEscape(service))
}

// Lookup asks a scheduler's HTTP for the ready endpoints of a service (name or ID). An answer other than
// 200 is a *LookupError. The context bounds the call.
func Lookup(ctx context.Context, hc *http.Client, base, token, project, service string) (Endpoints, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, LookupURL(base, project, service), nil)
	if err != nil {
		return Endpoints{}, fmt.Errorf("endpoint look-up: %w", err)
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := hc.Do(req)
	if err != nil {
		return Endpoints{}, fmt.Errorf("endpoint look-up: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLookupAnswer+1))
	if err != nil {
		return Endpoints{}, fmt.Errorf("endpoint look-up: read the answer: %w", err)
	}
	if len(body) > maxLookupAnswer {
		return Endpoints{}, fmt.Errorf("endpoint look-up: the answer is larger than %d bytes", maxLookupAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		return Endpoints{}, lookupError(resp, body)
	}
	var answer Endpoints
	if err := json.Unmarshal(body, &answer); err != nil {
		return Endpoints{}, fmt.Errorf("endpoint look-up: decode the answer: %w", err)
	}
	answer.Stale = resp.Header.Get("Drover-Stale") == "true"
	if seconds, err := strconv.ParseFloat(resp.Header.Get("Drover-Staleness"), 64); err == nil {
		answer.Staleness = time.Duration(seconds * float64(time.Second))
	}
	return answer, nil
}

func lookupError(resp *http.Response, body []byte) error {
	e := &LookupError{Status: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
	var answer struct {
		Code    string `json:"error_code"`
		Message string `json:"error_msg"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Code != "" {
		e.Code, e.Message = answer.Code, answer.Message
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// NewHTTPClient makes a client for Lookup that checks the scheduler by the certificates of a CA file.
func NewHTTPClient(caFile string) (*http.Client, error) {
	pool, err := readCA(caFile)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	return &http.Client{Transport: t}, nil
}
