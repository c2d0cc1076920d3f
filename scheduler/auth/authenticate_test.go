package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/signature"
)

// plainSealer keeps secrets as they are, and opens those that were sealed for the same.
type plainSealer struct{}

func (plainSealer) Seal(secret []byte, about string) (*fleetv1.SealedKey, error) {
	return &fleetv1.SealedKey{KeyId: about, Ciphertext: secret}, nil
}

func (plainSealer) Open(sealed *fleetv1.SealedKey, about string) ([]byte, error) {
	if sealed.GetKeyId() != about {
		return nil, errors.New("it is sealed for " + sealed.GetKeyId())
	}
	return sealed.GetCiphertext(), nil
}

type shop struct {
	t     testing.TB
	store *state.Store
	auth  *Authenticator
	now   time.Time
	index uint64
	log   strings.Builder
}

func (s *shop) write(m ...*fleetv1.Mutation) {
	s.t.Helper()
	cmd := &fleetv1.Command{Time: timestamppb.New(s.now), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}}
	cmd.Introduced = state.Introduced(cmd)
	s.index++
	if r, _ := s.store.Apply(s.index, cmd); len(r.Rejections) > 0 {
		s.t.Fatal(r.Rejections)
	}
}

func newShop(t testing.TB) *shop {
	s := &shop{t: t, store: state.New(), now: now}
	s.auth = NewAuthenticator(AuthenticatorConfig{View: s.store.View, Sealer: plainSealer{}, Now: func() time.Time { return s.now }, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	meta := func(name, project string) *fleetv1.Meta {
		return &fleetv1.Meta{Name: name, Id: name, Account: fleetv1.Default, Project: project}
	}
	sealed := func(secret, about string) *fleetv1.SealedKey {
		return &fleetv1.SealedKey{KeyId: about, Ciphertext: []byte(secret)}
	}
	scopes := []*fleetv1.Scope{{Project: "vision", Role: fleetv1.RoleLookup}, {Project: "speech", Role: fleetv1.RoleViewer}}
	late := timestamppb.New(now.Add(time.Hour))
	s.write(state.Put(0, &fleetv1.Cluster{Meta: meta("cluster", "")}),
		state.Put(0, &fleetv1.User{Meta: &fleetv1.Meta{Name: "ann", Account: "acme"}}),
		state.Put(0, &fleetv1.Token{Meta: meta("t", "vision"), SecretSha256: Hash("s-t"), Role: fleetv1.RoleLookup, User: "ann", Scopes: scopes[1:], ExpireTime: late}),
		state.Put(0, &fleetv1.Token{Meta: meta("root", "default"), SecretSha256: Hash("s-root"), Role: fleetv1.RoleAdmin}),
		state.Put(0, &fleetv1.Token{Meta: meta("nodes", "default"), SecretSha256: Hash("s-nodes"), Role: fleetv1.RoleAgent}),
		state.Put(0, &fleetv1.Key{Meta: meta("AK", "vision"), User: "ann", Scopes: scopes, ExpireTime: late, Secret: sealed("sk", AboutKey("AK"))}),
		state.Put(0, &fleetv1.Key{Meta: meta("LOST", "vision"), User: "ann", Scopes: scopes, Secret: sealed("sk", "another")}),
		state.Put(0, &fleetv1.Model{Meta: meta("m", "vision"), Spec: &fleetv1.ModelSpec{Version: "0.0.1"}}),
		state.Put(0, &fleetv1.App{Meta: meta("app", "vision"), AppKey: "APP", Secret: sealed("as", AboutApp("vision", "app")), Services: []string{"iris", "gone", "lily"},
			ServiceIds: map[string]string{"iris": "iris", "gone": "gone-1", "lily": "lily-1"}, Codes: []*fleetv1.AppCode{{Id: "1", Sha256: Hash("code")}}}),
		state.Put(0, &fleetv1.App{Meta: meta("older", "vision"), AppKey: "OLDER", Services: []string{"rose"}, Codes: []*fleetv1.AppCode{{Id: "1", Sha256: Hash("older")}}}),
		state.Put(0, &fleetv1.Service{Meta: &fleetv1.Meta{Name: "lily", Id: "lily-2", Account: fleetv1.Default, Project: "vision"}}),
		state.Put(0, &fleetv1.Service{Meta: meta("iris", "vision")}), state.Put(0, &fleetv1.Service{Meta: meta("rose", "vision")}))
	return s
}

const irisPath = "/v1/vision/services/iris/predict/endpoints?type=host_endpoints"

func look(path string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func (s *shop) signed(path, access, secret string, at time.Time) *http.Request {
	s.t.Helper()
	r := look(path)
	if err := signature.Sign(r, access, secret, at); err != nil {
		s.t.Fatal(err)
	}
	return r
}

func TestRequest(t *testing.T) {
	s := newShop(t)
	inSpeech, inRoses := strings.Replace(irisPath, "vision", "speech", 1), strings.Replace(irisPath, "iris", "rose", 1)
	elsewhere := strings.Replace(irisPath, "vision", "secret", 1)
	twice := s.signed(irisPath, "AK", "sk", now)
	twice.Header.Set("X-Auth-Token", "s-t")
	tampered := s.signed(irisPath, "AK", "sk", now)
	tampered.URL.RawQuery = "type=other"
	for _, c := range []struct {
		name    string
		r       *http.Request
		err     error
		who     string // "NAME USER ROLE PROJECT ACCOUNT"
		status  int
		another string // what the error says besides
	}{
		{"token", look(irisPath, "X-Auth-Token", "s-t"), nil, "t ann lookup vision acme", 0, ""},
		{"token of another scope", look(inSpeech, "X-Auth-Token", "s-t"), nil, "t ann viewer speech acme", 0, ""},
		{"token of another project", look(elsewhere, "X-Auth-Token", "s-t"), nil, "t ann lookup vision acme", 0, ""},
		{"admin", look(irisPath, "X-Auth-Token", "s-root"), nil, "root root admin vision default", 0, ""},
		{"another path", look("/v1/models", "X-Auth-Token", "s-root"), nil, "root root admin default default", 0, ""},
		{"agent", look(irisPath, "X-Auth-Token", "s-nodes"), ErrAgent, "", 403, ""},
		{"none", look(irisPath), ErrNoCredential, "", 401, ""},
		{"empty token", look(irisPath, "X-Auth-Token", ""), ErrNoCredential, "", 401, ""},
		{"two tokens", look(irisPath, "X-Auth-Token", "s-t", "X-Auth-Token", "s-t"), ErrNoCredential, "", 401, ""},
		{"token and code", look(irisPath, "X-Auth-Token", "s-t", "X-Apig-AppCode", "code"), ErrNoCredential, "", 401, ""},
		{"token and signature", twice, ErrNoCredential, "", 401, ""},
		{"unknown token", look(irisPath, "X-Auth-Token", "s-u"), ErrUnknownToken, "", 401, ""},
		{"the hash as token", look(irisPath, "X-Auth-Token", string(Hash("s-t"))), ErrUnknownToken, "", 401, ""},
		{"key", s.signed(irisPath, "AK", "sk", now), nil, "AK ann lookup vision acme", 0, ""},
		{"key of another scope", s.signed(inSpeech, "AK", "sk", now), nil, "AK ann viewer speech acme", 0, ""},
		{"wrong secret", s.signed(irisPath, "AK", "ks", now), signature.ErrMismatch, "", 401, ""},
		{"unknown key", s.signed(irisPath, "KA", "sk", now), signature.ErrMismatch, "", 401, ""},
		{"unknown key with no secret", s.signed(irisPath, "KA", "", now), signature.ErrMismatch, "", 401, ""},
		{"tampered", tampered, signature.ErrMismatch, "", 401, ""},
		{"replayed", s.signed(irisPath, "AK", "sk", now.Add(-16*time.Minute)), nil, "", 401, "sign each request anew"},
		{"malformed", look(irisPath, "Authorization", "SDK-HMAC-SHA256 Access=AK"), nil, "", 401, "separated by commas"},
		{"key that can't be decrypted", s.signed(irisPath, "LOST", "sk", now), signature.ErrMismatch, "", 401, ""},
		{"code", look(irisPath, "X-Apig-AppCode", "code"), nil, "app app/vision/app lookup vision default", 0, ""},
		{"wrong code", look(irisPath, "X-Apig-AppCode", "cod"), ErrUnknownCode, "", 401, ""},
		{"app key as code", look(irisPath, "X-Apig-AppCode", "APP"), ErrUnknownCode, "", 401, ""},
		{"code, another service", look(inRoses, "X-Apig-AppCode", "code"), ErrNotBound, "", 403, ""},
		{"code, no service", look("/v1/vision/services/none/predict/endpoints", "X-Apig-AppCode", "code"), ErrNotBound, "", 403, ""},
		{"code, another project", look(elsewhere, "X-Apig-AppCode", "code"), nil, "app app/vision/app lookup vision default", 0, ""},
		{"app", s.signed(irisPath, "APP", "as", now), nil, "app app/vision/app lookup vision default", 0, ""},
		{"app, another service", s.signed(inRoses, "APP", "as", now), ErrNotBound, "", 403, ""},
		{"app, wrong secret", s.signed(inRoses, "APP", "sk", now), signature.ErrMismatch, "", 401, ""},
		{"older app, by name", look(inRoses, "X-Apig-AppCode", "older"), nil, "older app/vision/older lookup vision default", 0, ""},
		{"app of a deleted service", look(strings.Replace(irisPath, "iris", "gone", 1), "X-Apig-AppCode", "code"), nil, "app app/vision/app lookup vision default", 0, ""},
		{"likewise, by ID", look(strings.Replace(irisPath, "iris", "gone-1", 1), "X-Apig-AppCode", "code"), nil, "app app/vision/app lookup vision default", 0, ""},
		{"app, another service of its name", look(strings.Replace(irisPath, "iris", "lily", 1), "X-Apig-AppCode", "code"), ErrNotBound, "", 403, ""},
		{"likewise, by ID", look(strings.Replace(irisPath, "iris", "lily-2", 1), "X-Apig-AppCode", "code"), ErrNotBound, "", 403, ""},
		{"likewise, by the ID before", look(strings.Replace(irisPath, "iris", "lily-1", 1), "X-Apig-AppCode", "code"), nil, "app app/vision/app lookup vision default", 0, ""},
		{"code's digest as key", s.signed(irisPath, string(Hash("code")), "as", now), signature.ErrMismatch, "", 401, ""},
	} {
		got, err := s.auth.Request(c.r, nil)
		if c.who != "" {
			if who := strings.Join([]string{got.Name, got.User, got.Role, got.Project, got.Account}, " "); err != nil || who != c.who {
				t.Errorf("%s: %q, %v; want %q", c.name, who, err, c.who)
			}
			continue
		}
		if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.another) || HTTPStatus(err) != c.status {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := NewAuthenticator(AuthenticatorConfig{View: state.New().View, Now: time.Now}).Request(look(irisPath, "X-Auth-Token", "s-t"), nil); HTTPStatus(err) != 503 || !errors.Is(err, ErrNotReady) {
		t.Errorf("before the bootstrap: %v", err)
	}
}

// TestSealedKeysLookUnknown: nobody finds out that a scheduler can't decrypt a key, but who reads its log. It counts again when
// the key file is put right.
func TestSealedKeysLookUnknown(t *testing.T) {
	s := newShop(t)
	sealed := proto.CloneOf(s.store.View().App("vision", "app"))
	sealed.Secret = s.store.View().Key("LOST").GetSecret()
	s.write(state.Put(sealed.GetMeta().GetRevision(), sealed))
	_, unknown := s.auth.Request(s.signed(irisPath, "KA", "sk", now), nil)
	for range 3 {
		for access, secret := range map[string]string{"LOST": "sk", "APP": "as"} {
			if _, err := s.auth.Request(s.signed(irisPath, access, secret, now), nil); err == nil || err.Error() != unknown.Error() || HTTPStatus(err) != HTTPStatus(unknown) {
				t.Errorf("%s: %v, and one that nobody has: %v", access, err, unknown)
			}
		}
	}
	if n := strings.Count(s.log.String(), "can't be decrypted"); n != 2 || !strings.Contains(s.log.String(), AboutKey("LOST")) {
		t.Errorf("%d lines of the log:\n%s", n, &s.log)
	}
	if _, err := s.auth.Request(look(irisPath, "X-Apig-AppCode", "code"), nil); err != nil {
		t.Errorf("the app's code: %v", err)
	}
	s.auth.cfg.Sealer = anySealer{}
	s.now = now.Add(unsealAgain)
	if _, err := s.auth.Request(s.signed(irisPath, "LOST", "sk", now), nil); err != nil {
		t.Errorf("when it can be decrypted again: %v", err)
	}
	if got := s.auth.Uses(10); len(got) != 2 {
		t.Errorf("used: %v", got)
	}
}

// anySealer opens whatever was sealed for whom.
type anySealer struct{ plainSealer }

func (anySealer) Open(sealed *fleetv1.SealedKey, _ string) ([]byte, error) {
	return sealed.GetCiphertext(), nil
}

// TestUnknownKeysLookLikeWrongSecrets: nobody finds out which access keys there are.
func TestUnknownKeysLookLikeWrongSecrets(t *testing.T) {
	s := newShop(t)
	_, unknown := s.auth.Request(s.signed(irisPath, "KA", "sk", now), nil)
	_, wrong := s.auth.Request(s.signed(irisPath, "AK", "ks", now), nil)
	s.now = now.Add(90 * time.Minute)
	_, expired := s.auth.Request(s.signed(irisPath, "AK", "ks", s.now), nil)
	if unknown == nil || wrong == nil || expired == nil || unknown.Error() != wrong.Error() || wrong.Error() != expired.Error() {
		t.Errorf("unknown: %v; wrong: %v; expired and wrong: %v", unknown, wrong, expired)
	}
}

func TestExpiredAndRevoked(t *testing.T) {
	s := newShop(t)
	if _, err := s.auth.Secret(t.Context(), "s-t"); err != nil {
		t.Fatal(err)
	}
	s.now = now.Add(time.Hour)
	for _, r := range []*http.Request{look(irisPath, "X-Auth-Token", "s-t"), s.signed(irisPath, "AK", "sk", s.now)} {
		if _, err := s.auth.Request(r, nil); !errors.Is(err, ErrExpired) || HTTPStatus(err) != 401 {
			t.Errorf("expired: %v", err)
		}
	}
	s.now = now
	s.write(state.Delete(s.store.View().Token("t").GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindToken, Key: "t"}))
	s.write(state.Delete(s.store.View().Key("AK").GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindKey, Key: "AK"}))
	if _, err := s.auth.Secret(t.Context(), "s-t"); !errors.Is(err, ErrUnknownToken) {
		t.Errorf("revoked: %v", err)
	}
	if _, err := s.auth.Request(s.signed(irisPath, "AK", "sk", now), nil); !errors.Is(err, signature.ErrMismatch) {
		t.Errorf("revoked: %v", err)
	}
}

func TestUses(t *testing.T) {
	s := newShop(t)
	if got := s.auth.Uses(10); len(got) != 0 {
		t.Errorf("before any use: %v", got)
	}
	use := func() {
		t.Helper()
		for _, r := range []*http.Request{look(irisPath, "X-Auth-Token", "s-root"), s.signed(irisPath, "APP", "as", s.now)} {
			if _, err := s.auth.Request(r, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	use()
	if _, err := s.auth.Request(s.signed(irisPath, "AK", "ks", s.now), nil); err == nil {
		t.Fatal("a wrong secret is let in")
	}
	if got := s.auth.Uses(1); len(got) != 1 {
		t.Errorf("more than one: %v", got)
	}
	s.write(StoreUses(s.store.View(), s.auth.Uses(10))...)
	if root, app, key := s.store.View().Token("root"), s.store.View().App("vision", "app"), s.store.View().Key("AK"); !root.GetLastUsedTime().AsTime().Equal(now) ||
		!app.GetLastUsedTime().AsTime().Equal(now) || key.GetLastUsedTime() != nil {
		t.Errorf("last used: %v, %v, %v", root, app, key)
	}
	s.now = now.Add(59 * time.Minute)
	use()
	if got := s.auth.Uses(10); len(got) != 0 {
		t.Errorf("within the hour: %v", got)
	}
	s.now = now.Add(time.Hour)
	use()
	again := proto.CloneOf(s.store.View().App("vision", "app"))
	again.Services = nil
	s.write(state.Put(again.GetMeta().GetRevision(), again)) // what was seen of it isn't current any more
	s.write(StoreUses(s.store.View(), s.auth.Uses(10))...)
	if app := s.store.View().App("vision", "app"); !app.GetLastUsedTime().AsTime().Equal(s.now) || len(app.GetServices()) != 0 {
		t.Errorf("after a change: %v", app)
	}
	late := timestamppb.New(s.now.Add(2 * time.Hour))
	told := []*fleetv1.CredentialUse{{Kind: fleetv1.KindKey, Key: "AK", Time: late}, {Kind: fleetv1.KindKey, Key: "AK", Time: late}, {Kind: fleetv1.KindToken, Key: "none", Time: late},
		{Kind: fleetv1.KindService, Key: "vision/iris", Time: late}, {Kind: fleetv1.KindToken, Key: "root", Time: timestamppb.New(now)}, {Kind: fleetv1.KindToken, Key: "t"}}
	s.write(StoreUses(s.store.View(), told)...)
	if got := s.store.View().Key("AK"); !got.GetLastUsedTime().AsTime().Equal(late.AsTime()) || s.store.View().Token("t").GetLastUsedTime() != nil {
		t.Errorf("as another scheduler tells: %v", got)
	}
	s.auth.Uses(10)
	left := 0
	s.auth.seen.Range(func(any, any) bool { left++; return true })
	if left > 1 { // the key with the wrong secret
		t.Errorf("%d credentials are kept that have changed", left)
	}
}

type external map[string][]Grant

func (e external) Bearer(_ context.Context, token string) (Bearer, error) {
	if grants, ok := e[token]; ok {
		return Bearer{"external/eva", grants}, nil
	}
	return Bearer{}, ErrUnknownToken
}

type noKeys struct{}

func (noKeys) Bearer(context.Context, string) (Bearer, error) { return Bearer{}, ErrNoKeys }

func TestExternalTokens(t *testing.T) {
	s := newShop(t)
	project := func(name, account string) *fleetv1.Mutation {
		return state.Put(0, &fleetv1.Project{Meta: &fleetv1.Meta{Name: name, Id: name, Account: account, Project: name}})
	}
	s.write(project("vision", "acme"), project("speech", "acme"), project("taken", "globex"))
	grant := func(account, project, role string) Grant { return Grant{account, project, role} }
	viewer := func(account, project string) Grant { return grant(account, project, fleetv1.RoleViewer) }
	s.auth.cfg.External = external{
		"one.b.c":   {viewer("acme", "vision")},
		"two.b.c":   {viewer("acme", "vision"), grant("acme", "vision", fleetv1.RoleDeployer), viewer("acme", "speech"), viewer("acme", "vision")},
		"other.b.c": {viewer("globex", "vision"), viewer("acme", "taken"), viewer("acme", "later"), grant("acme", "speech", fleetv1.RoleLookup)},
		"root.b.c":  {viewer("acme", "vision"), grant("default", "default", fleetv1.RoleOperator), grant("acme", "speech", fleetv1.RoleAdmin)},
		"none.b.c":  {viewer("acme", "taken"), viewer("acme", "later")},
		"admin.b.c": {grant("acme", "taken", fleetv1.RoleAdmin), grant("acme", "later", fleetv1.RoleAdmin)},
		"plain":     {viewer("acme", "vision")},
		"empty.b.c": nil,
	}
	who := func(token string) string {
		c, err := s.auth.Secret(t.Context(), token)
		switch {
		case errors.Is(err, ErrNotGranted) && HTTPStatus(err) == http.StatusForbidden:
			return "not granted"
		case errors.Is(err, ErrUnknownToken):
			return "unknown"
		case err != nil:
			return err.Error()
		}
		return strings.Join([]string{c.Name, c.User, c.Role, c.Project, c.Account, c.Scopes}, " ")
	}
	const eva = "external/eva external/eva "
	check := func(when string, want map[string]string) {
		t.Helper()
		for token, want := range want {
			if got := who(token); got != want {
				t.Errorf("%s, %s: %s, want %s", when, token, got, want)
			}
		}
	}
	check("at first", map[string]string{
		"one.b.c": eva + "viewer vision acme ", "two.b.c": eva + "deployer vision acme speech=viewer", "other.b.c": eva + "lookup speech acme ",
		"root.b.c": eva + "admin speech acme default=operator vision=viewer", "none.b.c": "not granted", "admin.b.c": "not granted",
		"empty.b.c": "not granted", "plain": "unknown", "new.b.c": "unknown",
	})
	s.write(project("later", "globex")) // somebody else has taken the name
	check("when the name is taken", map[string]string{"other.b.c": eva + "lookup speech acme ", "none.b.c": "not granted", "admin.b.c": "not granted"})
	moved := proto.CloneOf(s.store.View().Project("vision"))
	moved.Meta.Account = "globex"
	s.write(state.Put(moved.GetMeta().GetRevision(), moved))
	check("when it is another's", map[string]string{"one.b.c": "not granted", "two.b.c": eva + "viewer speech acme "})
	if _, err := s.auth.Request(look(irisPath, "X-Auth-Token", "one.b.c"), nil); !errors.Is(err, ErrNotGranted) {
		t.Errorf("a look-up: %v", err)
	}
	s.auth.cfg.External = noKeys{}
	if _, err := s.auth.Request(look(irisPath, "X-Auth-Token", "one.b.c"), nil); !errors.Is(err, ErrNoKeys) || HTTPStatus(err) != http.StatusServiceUnavailable {
		t.Errorf("without the issuer's keys: %v", err)
	}
}

func FuzzPathNames(f *testing.F) {
	f.Add(irisPath)
	f.Add("/v1//services/")
	f.Fuzz(func(t *testing.T, path string) {
		project, service := pathNames(path)
		if strings.Contains(service, "/") || (project != "" || service != "") && !strings.HasPrefix(path, "/v1/"+project+"/services/"+service) {
			t.Errorf("%q: %q, %q", path, project, service)
		}
	})
}
