package oidc

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// Config says whose tokens count. Without an issuer none do.
type Config struct {
	// Issuer and Audience are what "iss" and "aud" of a token must be.
	Issuer   string `yaml:"issuer"`
	Audience string `yaml:"audience"`
	// Keys is the file, or the https URL, of the issuer's key set.
	Keys string `yaml:"keys"`
	// UserClaim is what callers are called by.
	UserClaim string `yaml:"user_claim"`
	// Grants are "CLAIM=VALUE ACCOUNT/PROJECT=ROLE". A claim that is a list has each of its values. The account is that of the
	// project; without one it is the account "default".
	Grants []string `yaml:"grants"`
}

// grant is one of Config.Grants.
type grant struct {
	claim, value string
	auth.Grant
}

func parseGrant(text string) (g grant, err error) {
	at := strings.LastIndexByte(text, ' ') // a value may hold others
	who, what := text[:max(at, 0)], text[at+1:]
	g.claim, g.value, _ = strings.Cut(who, "=")
	where, role, does := strings.Cut(what, "=")
	account, project, both := strings.Cut(where, "/")
	if !both {
		account, project = fleetv1.Default, where
	}
	if g.Grant = (auth.Grant{Account: account, Project: project, Role: role}); !does || g.claim == "" || g.value == "" || account == "" || project == "" || strings.Contains(project, "/") {
		return g, fmt.Errorf("%q is not of the form CLAIM=VALUE ACCOUNT/PROJECT=ROLE", text)
	}
	if !slices.Contains(auth.Roles(), role) {
		return g, fmt.Errorf("%q: the role %q is none of %s", text, role, strings.Join(auth.Roles(), ", "))
	}
	return g, nil
}

// Validate finds everything that is wrong.
func (c Config) Validate() error {
	if c.Issuer == "" {
		if c.Audience != "" || c.Keys != "" || len(c.Grants) > 0 {
			return errors.New("oidc.issuer: is missing, and without it nothing else of oidc counts")
		}
		return nil
	}
	var errs []error
	if c.Audience == "" {
		errs = append(errs, errors.New("oidc.audience: is missing: tokens that are meant for others would count"))
	}
	if c.UserClaim == "" {
		errs = append(errs, errors.New("oidc.user_claim: is missing"))
	}
	if u, err := url.Parse(c.Keys); !filepath.IsAbs(c.Keys) && (err != nil || u.Scheme != "https" || u.Host == "") {
		errs = append(errs, fmt.Errorf("oidc.keys: %q is neither an absolute path nor an https URL", c.Keys))
	}
	if len(c.Grants) == 0 {
		errs = append(errs, errors.New("oidc.grants: are missing: nobody could do anything"))
	}
	for i, text := range c.Grants {
		if _, err := parseGrant(text); err != nil {
			errs = append(errs, fmt.Errorf("oidc.grants[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}
