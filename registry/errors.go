package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Kinds of errors: every *Error wraps one of them.
var (
	ErrBadReference = errors.New("is not an image reference")
	ErrNotFound     = errors.New("not found")
	ErrUnauthorized = errors.New("refused")
	ErrUnreachable  = errors.New("cannot be asked for")
)

// Error says on one line which image could not be resolved, why, and what to do.
type Error struct {
	Image string
	Host  string // registry; empty when the reference names none
	Kind  error
	Err   error // cause
	Hint  string
}

func (e *Error) Error() string {
	what := fmt.Sprintf("image %q", e.Image)
	switch {
	case errors.Is(e.Kind, ErrBadReference):
		what += " is not an image reference"
	case errors.Is(e.Kind, ErrNotFound):
		what += " was not found at " + e.Host
	case errors.Is(e.Kind, ErrUnauthorized):
		what += ": " + e.Host + " refused access"
	default:
		what += ": registry " + e.Host + " gave no answer"
	}
	if e.Err != nil {
		what += ": " + oneLine(e.Err.Error())
	}
	return what + "; " + e.Hint
}

// Unwrap lets errors.Is find the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}

// explain turns what the protocol library answered into an *Error.
func (r *Registry) explain(image, host string, hadCredentials bool, err error) error {
	e := &Error{Image: image, Host: host, Kind: ErrUnreachable, Err: err,
		Hint: "check that the registry runs and that this machine reaches it, then try again"}
	var answer *transport.Error
	if errors.As(err, &answer) {
		r.explainAnswer(e, answer, hadCredentials)
		return e
	}
	var request *url.Error
	if errors.As(err, &request) {
		e.Err = request.Err
	}
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	switch {
	case errors.As(err, &record) || strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		e.Err = errors.New("it does not speak TLS")
		e.Hint = fmt.Sprintf("add %q to registry.plain_http if that is meant", host)
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &hostname):
		e.Hint = "give the registry a certificate that this machine trusts"
	case errors.Is(err, context.DeadlineExceeded):
		e.Err = fmt.Errorf("no answer within %v: %w", r.timeout, context.DeadlineExceeded)
	}
	return e
}

func (r *Registry) explainAnswer(e *Error, answer *transport.Error, hadCredentials bool) {
	e.Err = fmt.Errorf("it answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	missing := answer.StatusCode == http.StatusNotFound
	for _, d := range answer.Errors {
		missing = missing || d.Code == transport.ManifestUnknownErrorCode || d.Code == transport.NameUnknownErrorCode
		if d.Message != "" {
			e.Err = fmt.Errorf("it answered %d: %s", answer.StatusCode, d.Message)
		}
	}
	switch {
	case missing:
		e.Kind, e.Hint = ErrNotFound, "check repository and tag, or push the image first"
	case answer.StatusCode != http.StatusUnauthorized && answer.StatusCode != http.StatusForbidden:
		e.Hint = "try again, or look at the registry's own log"
	case hadCredentials:
		e.Kind = ErrUnauthorized
		e.Hint = fmt.Sprintf("the credentials for it in %s are wrong or lack the right to pull: log in again", r.cfg.DockerConfig)
	case r.cfg.DockerConfig != "":
		e.Kind = ErrUnauthorized
		e.Hint = fmt.Sprintf("%s has no credentials for it: log in with `docker login %s`", r.cfg.DockerConfig, e.Host)
	default:
		e.Kind = ErrUnauthorized
		e.Hint = "set registry.docker_config to a Docker config file with credentials for it"
	}
}
