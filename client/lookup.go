package client

import (
	"context"
	"net/http"

	"github.com/drover-fleet/drover/client/direct"
)

// Endpoint is where a client calls one ready instance itself.
type Endpoint = direct.Endpoint

// Endpoints is one answer of the look-up.
type Endpoints = direct.Endpoints

// LookupError is an answer of the look-up that is not a list of endpoints.
type LookupError = direct.LookupError

// LookupURL is the address that Lookup asks; base is "http://host:port" of a scheduler's HTTP.
func LookupURL(base, project, service string) string { return direct.LookupURL(base, project, service) }

// Lookup asks a scheduler's HTTP once, with a token, for the ready endpoints of a service (name or ID). An answer other
// than 200 is a *LookupError. The context bounds the call. Whoever calls the service again and again uses package direct.
func Lookup(ctx context.Context, hc *http.Client, base, token, project, service string) (Endpoints, error) {
	return direct.Lookup(ctx, hc, direct.LookupURL(base, project, service), direct.Credentials{Token: token})
}

// NewHTTPClient makes a client for Lookup that checks the scheduler by the certificates of a CA file.
func NewHTTPClient(caFile string) (*http.Client, error) {
	if _, err := direct.ReadCA(caFile); err != nil { // an empty name would be the system's
		return nil, err
	}
	return direct.NewHTTPClient(caFile)
}
