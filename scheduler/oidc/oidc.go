package oidc

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/drover-fleet/drover/scheduler/auth"
)

// Bounds of verifying.
const (
	reloadAfter   = 10 * time.Second // at least, between two loads of the key set
	loadTimeout   = 5 * time.Second
	maxKeySet     = 1 << 20 // bytes
	rememberFor   = time.Minute
	maxRemembered = 10_000
	maxToken      = 16 << 10 // bytes
	maxUser       = 128      // bytes of a user claim
)

// Issuer verifies the tokens of an external issuer.
type Issuer struct {
	cfg      Config
	grants   []grant
	keys     *keySet
	verifier *oidc.IDTokenVerifier
	now      func() time.Time

	mu       sync.Mutex
	verified map[[sha256.Size]byte]verified
}

type verified struct {
	caller auth.Caller
	until  time.Time
}

// New makes an issuer of a valid configuration that has one. Its key set is loaded with the first token.
func New(cfg Config, now func() time.Time) (*Issuer, error) {
	i := &Issuer{cfg: cfg, now: now, keys: &keySet{from: cfg.Keys, now: now, client: &http.Client{Timeout: loadTimeout, CheckRedirect: noRedirect}}, verified: map[[sha256.Size]byte]verified{}}
	for _, text := range cfg.Grants {
		g, err := parseGrant(text)
		if err != nil {
			return nil, fmt.Errorf("oidc.grants: %w", err)
		}
		i.grants = append(i.grants, g)
	}
	i.verifier = oidc.NewVerifier(cfg.Issuer, i.keys, &oidc.Config{ClientID: cfg.Audience, Now: now, SupportedSigningAlgs: []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}})
	return i, nil
}

// noRedirect: who could lead elsewhere could also say whom to believe.
func noRedirect(*http.Request, []*http.Request) error {
	return errors.New("it redirects: name the address where the key set is")
}

// Caller implements auth.External. The account of the caller is for auth to find out.
func (i *Issuer) Caller(ctx context.Context, token string) (auth.Caller, error) {
	if len(token) > maxToken {
		return auth.Caller{}, auth.ErrUnknownToken
	}
	sum := sha256.Sum256([]byte(token))
	i.mu.Lock()
	known, ok := i.verified[sum]
	i.mu.Unlock()
	if ok && i.now().Before(known.until) {
		return known.caller, nil
	}
	found, err := i.verifier.Verify(ctx, token)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return auth.Caller{}, auth.ErrExpired
	case err != nil:
		return auth.Caller{}, fmt.Errorf("%w: %s", auth.ErrUnknownToken, oneLine(err))
	}
	caller, err := i.granted(found)
	if err != nil {
		return auth.Caller{}, err
	}
	until := i.now().Add(rememberFor)
	if found.Expiry.Before(until) {
		until = found.Expiry
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.verified) >= maxRemembered {
		clear(i.verified)
	}
	i.verified[sum] = verified{caller, until}
	return caller, nil
}

// oneLine keeps what a token says of itself out of log and answer, but for the first words of the reason.
func oneLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return strings.ToValidUTF8(text[:min(len(text), 200)], "")
}

// granted is who shows a verified token, and what he may.
func (i *Issuer) granted(token *oidc.IDToken) (auth.Caller, error) {
	claims := map[string]json.RawMessage{}
	if err := token.Claims(&claims); err != nil {
		return auth.Caller{}, fmt.Errorf("%w: its claims can't be read", auth.ErrUnknownToken)
	}
	user := values(claims[i.cfg.UserClaim])
	if len(user) != 1 || user[0] == "" || len(user[0]) > maxUser || strings.ContainsFunc(user[0], func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return auth.Caller{}, fmt.Errorf("%w: its claim %s is not one word of at most %d characters", auth.ErrUnknownToken, i.cfg.UserClaim, maxUser)
	}
	roles := map[string]string{}
	var projects []string
	for _, g := range i.grants {
		if !slices.Contains(values(claims[g.claim]), g.value) {
			continue
		}
		if before, ok := roles[g.project]; !ok {
			projects = append(projects, g.project)
			roles[g.project] = g.role
		} else if slices.Index(auth.Roles(), g.role) < slices.Index(auth.Roles(), before) {
			roles[g.project] = g.role
		}
	}
	if len(projects) == 0 {
		return auth.Caller{}, auth.ErrNotGranted
	}
	slices.SortStableFunc(projects, func(a, b string) int { return everywhere(roles[b]) - everywhere(roles[a]) })
	c := auth.Caller{Name: "external/" + user[0], User: "external/" + user[0], Project: projects[0], Role: roles[projects[0]]}
	for _, p := range projects[1:] {
		c.Scopes = strings.TrimSpace(c.Scopes + " " + p + "=" + roles[p])
	}
	return c, nil
}

// everywhere is 2 or 1 for roles that hold in every project, the mightier first, and 0 for others.
func everywhere(role string) int {
	return max(0, 2-slices.Index(auth.Roles(), role))
}

// values are those of a claim that is a text or a list of texts.
func values(raw json.RawMessage) []string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}
	}
	var many []string
	if json.Unmarshal(raw, &many) == nil {
		return many
	}
	return nil
}

// keySet implements oidc.KeySet.
type keySet struct {
	from   string
	now    func() time.Time
	client *http.Client

	loading sync.Mutex // held by the one who loads
	mu      sync.Mutex
	keys    []crypto.PublicKey
	loaded  time.Time
}

// VerifySignature answers the payload of a token that one of the keys has signed.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.verify(ctx, token)
	if err == nil {
		return payload, nil
	}
	if fresh, why := k.reload(ctx); why != nil {
		return nil, why
	} else if !fresh {
		return nil, err
	}
	return k.verify(ctx, token)
}

func (k *keySet) verify(ctx context.Context, token string) ([]byte, error) {
	k.mu.Lock()
	keys := k.keys
	k.mu.Unlock()
	return (&oidc.StaticKeySet{PublicKeys: keys}).VerifySignature(ctx, token)
}

// reload loads the keys unless that was done lately; fresh says that they were loaded.
func (k *keySet) reload(ctx context.Context) (fresh bool, _ error) {
	before := k.since()
	k.loading.Lock()
	defer k.loading.Unlock()
	switch last := k.since(); {
	case !last.Equal(before):
		return true, nil // somebody else has, meanwhile
	case !last.IsZero() && k.now().Sub(last) < reloadAfter:
		return false, nil
	}
	keys, err := k.load(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loaded = k.now()
	if err != nil {
		if len(k.keys) > 0 {
			return false, nil
		}
		return false, fmt.Errorf("the issuer's key set can't be loaded: %w", err)
	}
	k.keys = keys
	return true, nil
}

func (k *keySet) since() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loaded
}

func (k *keySet) load(ctx context.Context) ([]crypto.PublicKey, error) {
	if !strings.HasPrefix(k.from, "https://") {
		data, err := os.ReadFile(k.from)
		if err != nil {
			return nil, err
		}
		return parseKeys(data)
	}
	// Not the caller's cancellation: others wait for the keys, too.
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, k.from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", k.from, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet))
	if err != nil {
		return nil, err
	}
	return parseKeys(data)
}

// parseKeys reads a JWK set. Keys that don't verify signatures are left out.
func parseKeys(data []byte) ([]crypto.PublicKey, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("it is no JWK set: %w", err)
	}
	var keys []crypto.PublicKey
	for _, k := range set.Keys {
		if public := k.Public(); public.Valid() && (k.Use == "" || k.Use == "sig") {
			keys = append(keys, public.Key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no public key for signatures in it")
	}
	return keys, nil
}
