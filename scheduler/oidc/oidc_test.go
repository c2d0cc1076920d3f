package oidc

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

type issuer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	*Issuer
	now  time.Time
	file string
	log  lockedBuilder
}

// lockedBuilder may be written to from any goroutine.
type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func setOf(t *testing.T, keys ...crypto.PublicKey) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, Use: "sig"})
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (i *issuer) publish(keys ...crypto.PublicKey) {
	i.t.Helper()
	if err := os.WriteFile(i.file, setOf(i.t, keys...), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, key: newKey(t), now: start, file: filepath.Join(t.TempDir(), "keys.json")}
	i.publish(i.key.Public())
	cfg := Config{Issuer: "https://idp.example.org", Audience: "drover", Keys: i.file, UserClaim: "sub", Grants: []string{
		"groups=ml team acme/vision=deployer", "groups=ml team acme/speech=viewer", "groups=all acme/vision=viewer", "sub=eva default=operator", "groups=root acme/vision=admin"}}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	var err error
	if i.Issuer, err = New(cfg, func() time.Time { return i.now }, slog.New(slog.NewTextHandler(&i.log, &slog.HandlerOptions{Level: slog.LevelDebug}))); err != nil {
		t.Fatal(err)
	}
	return i
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claims of a good token, with changes: key, value; a nil value leaves the claim out.
func claims(changes ...any) map[string]any {
	c := map[string]any{"iss": "https://idp.example.org", "aud": "drover", "sub": "ann", "exp": start.Add(time.Hour).Unix(), "groups": []string{"ml team", "all"}}
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

func TestBearer(t *testing.T) {
	i := newIssuer(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.publish(i.key.Public(), rsaKey.Public())
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(sign(t, jose.ES256, i.key, claims()), ".")[1] + "."
	tampered := strings.Split(sign(t, jose.ES256, i.key, claims()), ".")
	tampered[1] = strings.Split(sign(t, jose.ES256, i.key, claims("groups", "root")), ".")[1]
	for _, c := range []struct {
		name, token string
		who         string // "NAME ACCOUNT/PROJECT=ROLE …"
		err         error
	}{
		{"two groups", sign(t, jose.ES256, i.key, claims()), "external/ann acme/vision=deployer acme/speech=viewer acme/vision=viewer", nil},
		{"one group, as text", sign(t, jose.ES256, i.key, claims("groups", "all")), "external/ann acme/vision=viewer", nil},
		{"by name", sign(t, jose.ES256, i.key, claims("sub", "eva")), "external/eva acme/vision=deployer acme/speech=viewer acme/vision=viewer default/default=operator", nil},
		{"signed by RSA", sign(t, jose.RS256, rsaKey, claims("groups", []string{"all", "root"})), "external/ann acme/vision=viewer acme/vision=admin", nil},
		{"among audiences", sign(t, jose.ES256, i.key, claims("aud", []string{"other", "drover"}, "groups", "all")), "external/ann acme/vision=viewer", nil},
		{"no grant", sign(t, jose.ES256, i.key, claims("groups", []string{"sales"})), "external/ann", nil},
		{"groups of another form", sign(t, jose.ES256, i.key, claims("groups", 7)), "external/ann", nil},
		{"no groups", sign(t, jose.ES256, i.key, claims("groups", nil)), "external/ann", nil},
		{"expired", sign(t, jose.ES256, i.key, claims("exp", start.Add(-time.Second).Unix())), "", auth.ErrExpired},
		{"never expires", sign(t, jose.ES256, i.key, claims("exp", nil)), "", auth.ErrExpired},
		{"not yet", sign(t, jose.ES256, i.key, claims("nbf", start.Add(time.Hour).Unix())), "", auth.ErrUnknownToken},
		{"another issuer", sign(t, jose.ES256, i.key, claims("iss", "https://evil.example.org")), "", auth.ErrUnknownToken},
		{"for others", sign(t, jose.ES256, i.key, claims("aud", "shop")), "", auth.ErrUnknownToken},
		{"another key", sign(t, jose.ES256, newKey(t), claims()), "", auth.ErrUnknownToken},
		{"the public key as a secret", sign(t, jose.HS256, der, claims()), "", auth.ErrUnknownToken},
		{"unsigned", unsigned, "", auth.ErrUnknownToken},
		{"tampered", strings.Join(tampered, "."), "", auth.ErrUnknownToken},
		{"nonsense", "a.b.c", "", auth.ErrUnknownToken},
		{"long", strings.Repeat("a", maxToken) + ".b.c", "", auth.ErrUnknownToken},
		{"nobody", sign(t, jose.ES256, i.key, claims("sub", nil)), "", auth.ErrUnknownToken},
		{"two words", sign(t, jose.ES256, i.key, claims("sub", "ann\nadmin")), "", auth.ErrUnknownToken},
	} {
		for range 2 { // the second time it may be remembered
			got, err := i.Bearer(t.Context(), c.token)
			who := got.Name
			for _, g := range got.Grants {
				who += " " + g.Account + "/" + g.Project + "=" + g.Role
			}
			if who != c.who || !errors.Is(err, c.err) {
				t.Errorf("%s: %q, %v; want %q, %v", c.name, who, err, c.who, c.err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%s: more than one line: %q", c.name, err)
			}
		}
	}
	if got := len(i.verified); got != 8 {
		t.Errorf("%d tokens are remembered", got)
	}
	good := sign(t, jose.ES256, i.key, claims("exp", start.Add(30*time.Second).Unix()))
	if _, err := i.Bearer(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	i.now = start.Add(31 * time.Second)
	if _, err := i.Bearer(t.Context(), good); !errors.Is(err, auth.ErrExpired) {
		t.Errorf("expired while it was remembered: %v", err)
	}
}

// TestKeysChange: a new key counts once the set is loaded again, which strangers can't have done at will.
func TestKeysChange(t *testing.T) {
	i := newIssuer(t)
	old, next := i.key, newKey(t)
	try := func(key *ecdsa.PrivateKey, user string) error {
		_, err := i.Bearer(t.Context(), sign(t, jose.ES256, key, claims("sub", user)))
		return err
	}
	if err := try(old, "a"); err != nil {
		t.Fatal(err)
	}
	i.publish(next.Public())
	if err := try(next, "b"); !errors.Is(err, auth.ErrUnknownToken) {
		t.Errorf("at once: %v", err)
	}
	i.now = i.now.Add(reloadAfter)
	if err := try(next, "b"); err != nil {
		t.Errorf("after a while: %v", err)
	}
	if err := try(old, "c"); !errors.Is(err, auth.ErrUnknownToken) {
		t.Errorf("with the key of before: %v", err)
	}
	if err := os.Remove(i.file); err != nil {
		t.Fatal(err)
	}
	i.now = i.now.Add(reloadAfter)
	if err := try(old, "d"); !errors.Is(err, auth.ErrUnknownToken) {
		t.Errorf("the set is gone: %v", err)
	}
	if err := try(next, "e"); err != nil {
		t.Errorf("the set is gone, with the key that it had: %v", err)
	}
	i.now = i.now.Add(rememberFor)
	if err := try(old, "a"); !errors.Is(err, auth.ErrUnknownToken) {
		t.Errorf("what was verified is remembered for ever: %v", err)
	}
}

func TestKeysOfURL(t *testing.T) {
	i := newIssuer(t)
	var asked atomic.Int32
	var broken atomic.Bool
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if broken.Load() {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		w.Write(setOf(t, i.key.Public()))
	}))
	defer srv.Close()
	i.keys.from, i.keys.client = srv.URL, srv.Client()
	broken.Store(true)
	good := sign(t, jose.ES256, i.key, claims())
	if _, err := i.Bearer(t.Context(), good); !errors.Is(err, auth.ErrNoKeys) || err.Error() != auth.ErrNoKeys.Error() {
		t.Errorf("while it is broken: %v", err)
	}
	if got := i.log.String(); !strings.Contains(got, "500") || !strings.Contains(got, srv.URL) {
		t.Errorf("the log doesn't say why:\n%s", got)
	}
	broken.Store(false)
	i.now = i.now.Add(reloadAfter)
	if _, err := i.Bearer(t.Context(), good); err != nil {
		t.Errorf("later: %v", err)
	}
	for range 100 {
		if _, err := i.Bearer(t.Context(), sign(t, jose.ES256, newKey(t), claims())); err == nil {
			t.Fatal("a stranger is let in")
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

// hanging is an issuer that answers with nothing, until a client gives up or it is released.
type hanging struct {
	asked   atomic.Int32
	release chan []byte
}

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked.Add(1)
	select {
	case <-r.Context().Done():
		return nil, fmt.Errorf("dial 10.11.12.13: %w", r.Context().Err())
	case set := <-h.release:
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(set))}, nil
	}
}

// TestHangingIssuer: who shows tokens of unknown keys waits for an issuer that doesn't answer, by himself; it is asked once, and
// he is told nothing of it.
func TestHangingIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		h := &hanging{release: make(chan []byte)}
		i.Issuer.now, i.keys.now = time.Now, time.Now
		i.verifier = oidc.NewVerifier(i.cfg.Issuer, i.keys, &oidc.Config{ClientID: i.cfg.Audience, Now: time.Now, SupportedSigningAlgs: []string{oidc.ES256}})
		late := time.Now().Add(24 * time.Hour).Unix()
		signed := func(key *ecdsa.PrivateKey, user string) string {
			return sign(t, jose.ES256, key, claims("exp", late, "sub", user))
		}
		if _, err := i.Bearer(t.Context(), signed(i.key, "first")); err != nil {
			t.Fatal(err)
		}
		i.keys.from, i.keys.client = "https://idp.example.org/keys", &http.Client{Transport: h, Timeout: loadTimeout}
		time.Sleep(reloadAfter)

		var strangers sync.WaitGroup
		for range 20 {
			strangers.Go(func() {
				began := time.Now()
				_, err := i.Bearer(t.Context(), signed(newKey(t), "eve"))
				if !errors.Is(err, auth.ErrUnknownToken) || err.Error() != auth.ErrUnknownToken.Error() || time.Since(began) > loadTimeout {
					t.Errorf("a stranger, after %v: %v", time.Since(began), err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		for n := range 20 {
			if _, err := i.Bearer(t.Context(), signed(i.key, fmt.Sprint("ann", n))); err != nil {
				t.Errorf("while strangers wait: %v", err)
			}
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := i.Bearer(gone, signed(newKey(t), "eve")); !errors.Is(err, auth.ErrUnknownToken) {
			t.Errorf("a stranger who has gone: %v", err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("known keys waited %v for the issuer", waited)
		}
		strangers.Wait()
		for range 100 { // lately enough
			if _, err := i.Bearer(t.Context(), signed(newKey(t), "eve")); !errors.Is(err, auth.ErrUnknownToken) {
				t.Error(err)
			}
		}
		if n := h.asked.Load(); n != 1 {
			t.Errorf("the issuer was asked %d times", n)
		}
		if got := i.log.String(); !strings.Contains(got, "10.11.12.13") {
			t.Errorf("the log doesn't say why:\n%s", got)
		}

		time.Sleep(reloadAfter)
		next := newKey(t)
		var callers sync.WaitGroup
		for n := range 5 { // all that need the new key have it as soon as the issuer answers
			callers.Go(func() {
				if _, err := i.Bearer(t.Context(), signed(next, fmt.Sprint("bob", n))); err != nil {
					t.Errorf("with a new key: %v", err)
				}
			})
		}
		synctest.Wait()
		h.release <- setOf(t, next.Public())
		callers.Wait()
		if n := h.asked.Load(); n != 2 {
			t.Errorf("the issuer was asked %d times", n)
		}
	})
}

func TestValidate(t *testing.T) {
	good := Config{Issuer: "i", Audience: "a", Keys: "/keys", UserClaim: "sub", Grants: []string{"sub=ann default=viewer"}}
	for words, edit := range map[string]func(*Config){
		"":                               func(*Config) {},
		"oidc.audience: is missing":      func(c *Config) { c.Audience = "" },
		"oidc.user_claim: is missing":    func(c *Config) { c.UserClaim = "" },
		"oidc.grants: are missing":       func(c *Config) { c.Grants = nil },
		"oidc.issuer: is missing":        func(c *Config) { c.Issuer = "" },
		`"keys" is neither`:              func(c *Config) { c.Keys = "keys" },
		`"http://a/keys" is neither`:     func(c *Config) { c.Keys = "http://a/keys" },
		`oidc.grants[0]: "ann" is not`:   func(c *Config) { c.Grants[0] = "ann" },
		`"sub=ann default" is not`:       func(c *Config) { c.Grants[0] = "sub=ann default" },
		`the role "agent" is none`:       func(c *Config) { c.Grants[0] = "sub=ann default=agent" },
		`"=ann default=viewer" is not`:   func(c *Config) { c.Grants[0] = "=ann default=viewer" },
		`"sub=ann =viewer" is not`:       func(c *Config) { c.Grants[0] = "sub=ann =viewer" },
		`oidc.grants[0]: "" is not`:      func(c *Config) { c.Grants[0] = "" },
		`"sub=ann /vision=viewer" is no`: func(c *Config) { c.Grants[0] = "sub=ann /vision=viewer" },
		`"sub=ann acme/=viewer" is not`:  func(c *Config) { c.Grants[0] = "sub=ann acme/=viewer" },
		`"sub=ann a/b/c=viewer" is not`:  func(c *Config) { c.Grants[0] = "sub=ann a/b/c=viewer" },
		`the role "" is none`:            func(c *Config) { c.Grants[0] = "sub=ann default=" },
		"https://idp.example.org/k.json": nil,
	} {
		c := good
		c.Grants = append([]string(nil), good.Grants...)
		if edit == nil {
			c.Keys, words = words, ""
		} else {
			edit(&c)
		}
		if err := c.Validate(); (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", words, err)
		}
	}
	if err := (Config{UserClaim: "sub"}).Validate(); err != nil {
		t.Errorf("none: %v", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%v, %v", keys, err)
		}
		for _, k := range keys {
			if _, secret := k.([]byte); secret {
				t.Error("a secret key is taken")
			}
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	f.Add("groups=ml team vision=deployer")
	f.Add("groups=ml team acme/vision=deployer")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := parseGrant(text)
		short, long := g.claim+"="+g.value+" "+g.Project+"="+g.Role, g.claim+"="+g.value+" "+g.Account+"/"+g.Project+"="+g.Role
		if err == nil && long != text && (short != text || g.Account != fleetv1.Default) {
			t.Errorf("%q is read as %+v", text, g)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	i := &Issuer{}
	f.Fuzz(func(t *testing.T, token string) {
		if i.keys == nil {
			i = newIssuer(t).Issuer
		}
		if c, err := i.Bearer(t.Context(), token); err == nil {
			t.Errorf("%q is let in as %+v", token, c)
		}
	})
}
