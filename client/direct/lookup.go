package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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

// Address is the endpoint's "ip:port".
func (e Endpoint) Address() string { return net.JoinHostPort(e.IP, strconv.Itoa(e.Port)) }

// Endpoints is one answer of the look-up. It may be used for MaxAge without asking again.
type Endpoints struct {
	HostEndpoints []Endpoint `json:"host_endpoints"`
	Index         uint64     `json:"index"`
	MaxAgeSeconds int        `json:"max_age_seconds"`
	// Stale means that the scheduler has heard no leader for 2 s or more; Staleness is for how long, when it knows.
	Stale     bool          `json:"-"`
	Staleness time.Duration `json:"-"`

	etag string
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
	// Stale means that the scheduler has heard no leader for 2 s or more.
	Stale bool
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

// Lookup asks for the ready endpoints of a service once; url is LookupURL's. An answer other than 200 is a *LookupError.
// The context bounds the call.
func Lookup(ctx context.Context, hc *http.Client, url string, by Credentials) (Endpoints, error) {
	return lookup(ctx, hc, url, by, Endpoints{})
}

// lookup answers what is known, with its age renewed, when the scheduler says that it has not changed.
func lookup(ctx context.Context, hc *http.Client, url string, by Credentials, known Endpoints) (Endpoints, error) {
	h := http.Header{"Accept": {"application/json"}}
	if known.etag != "" {
		h.Set("If-None-Match", known.etag)
	}
	resp, err := ask(ctx, hc, url, by, h)
	if err != nil {
		return Endpoints{}, err
	}
	defer resp.Body.Close()
	answer := known
	if resp.StatusCode != http.StatusNotModified {
		body, err := readBody(resp)
		if err != nil {
			return Endpoints{}, err
		}
		if answer, err = decode(body); err != nil {
			return Endpoints{}, err
		}
		answer.etag = resp.Header.Get("Etag")
	}
	answer.Stale, answer.Staleness = staleness(resp.Header)
	return answer, nil
}

// ask makes a request. The caller closes the body of an answer, which is 200, or 304 where the header asks for it.
func ask(ctx context.Context, hc *http.Client, url string, by Credentials, h http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("endpoint look-up: %w", err)
	}
	req.Header = h
	if err := by.apply(req); err != nil {
		return nil, fmt.Errorf("endpoint look-up: %w", err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("endpoint look-up: %w", err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotModified && h.Get("If-None-Match") != "" {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := readBody(resp)
	if err != nil {
		return nil, err
	}
	return nil, lookupError(resp, body)
}

func readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLookupAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("endpoint look-up: read the answer: %w", err)
	}
	if len(body) > maxLookupAnswer {
		return nil, errTooLarge
	}
	return body, nil
}

var errTooLarge = fmt.Errorf("endpoint look-up: the answer is larger than %d bytes", maxLookupAnswer)

// staleness is what an answer's headers say of its age.
func staleness(h http.Header) (stale bool, age time.Duration) {
	if seconds, err := strconv.ParseFloat(h.Get("Drover-Staleness"), 64); err == nil {
		age = time.Duration(seconds * float64(time.Second))
	}
	return h.Get("Drover-Stale") == "true", age
}

// decode reads an answer that has a list of endpoints, each with an address that can be called.
func decode(body []byte) (answer Endpoints, err error) {
	if err := json.Unmarshal(body, &answer); err != nil {
		return Endpoints{}, fmt.Errorf("endpoint look-up: decode the answer: %w", err)
	}
	if answer.HostEndpoints == nil {
		return Endpoints{}, errors.New("endpoint look-up: decode the answer: it has no host_endpoints")
	}
	for _, e := range answer.HostEndpoints {
		if net.ParseIP(e.IP) == nil || e.Port < 1 || e.Port > 65535 || e.Weight < 0 || e.Weight > maxWeight {
			return Endpoints{}, fmt.Errorf("endpoint look-up: decode the answer: instance %q at %s with weight %d can't be called", e.InstanceID, e.Address(), e.Weight)
		}
	}
	return answer, nil
}

// maxWeight of a version.
const maxWeight = 100

func lookupError(resp *http.Response, body []byte) *LookupError {
	e := &LookupError{Status: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
	e.Stale, _ = staleness(resp.Header)
	e.read(body)
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// read takes what the body of an error says.
func (e *LookupError) read(body []byte) {
	var answer struct {
		Code    string `json:"error_code"`
		Message string `json:"error_msg"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Code != "" {
		e.Code, e.Message = answer.Code, answer.Message
	}
}

// endOfWatch reads the event that says why a watch ends. A code's digits begin with the status, "0404" or "4092".
func endOfWatch(data []byte) *LookupError {
	e := &LookupError{Status: http.StatusBadGateway, Message: "the scheduler has ended the watch and doesn't say why"}
	e.read(data)
	digits := strings.TrimPrefix(strings.TrimPrefix(e.Code, "DROVER."), "0")
	if status, err := strconv.Atoi(digits[:min(3, len(digits))]); err == nil && status >= 400 && status < 600 {
		e.Status = status
	}
	return e
}

// gone says that there is no such service, or none that can be looked up or that the caller may look up, by a scheduler that
// should know.
func (e *LookupError) gone() bool {
	return e != nil && e.Code != "" && !e.Stale && (e.Status == http.StatusNotFound || e.Status == http.StatusConflict || e.Status == http.StatusForbidden)
}
