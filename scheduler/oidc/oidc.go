package oidc

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	log      *slog.Logger

	mu       sync.Mutex
	verified map[[sha256.Size]byte]verified
}

type verified struct {
	bearer auth.Bearer
	until  time.Time
}

// New makes an issuer of a valid configuration that has one. Its key set is loaded with the first token.
func New(cfg Config, now func() time.Time, log *slog.Logger) (*Issuer, error) {
	keys := &keySet{from: cfg.Keys, now: now, log: log, loading: make(chan struct{}, 1),
		client: &http.Client{Timeout: loadTimeout, CheckRedirect: noRedirect}}
	i := &Issuer{cfg: cfg, now: now, log: log, keys: keys, verified: map[[sha256.Size]byte]verified{}}
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

// Bearer implements auth.External. Whom a token isn't verified of is told nothing but auth's errors: what is wrong with it, or
// with loading the keys, is in the log alone.
func (i *Issuer) Bearer(ctx context.Context, token string) (auth.Bearer, error) {
	if len(token) > maxToken {
		return auth.Bearer{}, auth.ErrUnknownToken
	}
	sum := sha256.Sum256([]byte(token))
	i.mu.Lock()
	known, ok := i.verified[sum]
	i.mu.Unlock()
	if ok && i.now().Before(known.until) {
		return known.bearer, nil
	}
	found, err := i.verifier.Verify(ctx, token)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return auth.Bearer{}, auth.ErrExpired
	case err != nil:
		i.log.Debug("a token of an external issuer is refused", "error", oneLine(err))
		if keys, _ := i.keys.current(); len(keys) == 0 {
			return auth.Bearer{}, auth.ErrNoKeys
		}
		return auth.Bearer{}, auth.ErrUnknownToken
	}
	bearer, err := i.granted(found)
	if err != nil {
		return auth.Bearer{}, err
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
	i.verified[sum] = verified{bearer, until}
	return bearer, nil
}

// oneLine keeps what a token says of itself out of the log, but for the first words of the reason.
func oneLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return strings.ToValidUTF8(text[:min(len(text), 200)], "")
}

// granted is who shows a verified token, and what the grants say of him.
func (i *Issuer) granted(token *oidc.IDToken) (auth.Bearer, error) {
	claims := map[string]json.RawMessage{}
	if err := token.Claims(&claims); err != nil {
		return auth.Bearer{}, fmt.Errorf("%w: its claims can't be read", auth.ErrUnknownToken)
	}
	user := values(claims[i.cfg.UserClaim])
	if len(user) != 1 || user[0] == "" || len(user[0]) > maxUser || strings.ContainsFunc(user[0], func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return auth.Bearer{}, fmt.Errorf("%w: its claim %s is not one word of at most %d characters", auth.ErrUnknownToken, i.cfg.UserClaim, maxUser)
	}
	b := auth.Bearer{Name: "external/" + user[0]}
	for _, g := range i.grants {
		if slices.Contains(values(claims[g.claim]), g.value) {
			b.Grants = append(b.Grants, g.Grant)
		}
	}
	return b, nil
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
	log    *slog.Logger
	client *http.Client

	loading chan struct{} // holds one token while somebody loads
	mu      sync.Mutex
	keys    []crypto.PublicKey
	tried   time.Time // when they were last loaded, or couldn't be
}

// VerifySignature answers the payload of a token that one of the keys has signed.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	keys, of := k.current()
	payload, err := verify(ctx, keys, token)
	if err == nil || !k.reload(ctx, of) {
		return payload, err
	}
	keys, _ = k.current()
	return verify(ctx, keys, token)
}

func verify(ctx context.Context, keys []crypto.PublicKey, token string) ([]byte, error) {
	return (&oidc.StaticKeySet{PublicKeys: keys}).VerifySignature(ctx, token)
}

// current answers the keys, and when loading them was last tried.
func (k *keySet) current() (keys []crypto.PublicKey, tried time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.tried
}

// reload loads the keys unless those that the caller has seen are new, and says whether there may be others now. One call loads
// at a time, and those that need other keys as well wait for it.
func (k *keySet) reload(ctx context.Context, seen time.Time) bool {
	if !seen.IsZero() && k.now().Sub(seen) < reloadAfter {
		return false
	}
	select {
	case k.loading <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-k.loading }()
	if _, tried := k.current(); !tried.Equal(seen) {
		return true // somebody else has tried meanwhile
	}
	keys, err := k.load(ctx)
	if err != nil {
		k.log.Warn("the key set of the external issuer can't be loaded", "from", k.from, "error", err)
		keys, _ = k.current()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.tried = keys, k.now()
	return err == nil
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
