package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/signature"
)

// Errors of an Authenticator, which may be wrapped, beside those that say how a signed request is malformed.
var (
	ErrNoToken      = errors.New("no token: send one, --token-file or DROVER_TOKEN names it")
	ErrUnknownToken = errors.New("the token is not known to this cluster, or has been revoked: check --token-file or DROVER_TOKEN")
	ErrUnknownCode  = errors.New("the code in X-Apig-AppCode is not known to this cluster, or has been revoked")
	ErrNoCredential = errors.New("no credential: send X-Auth-Token, X-Apig-AppCode, or a request that is signed by SDK-HMAC-SHA256, and one of them only")
	ErrExpired      = errors.New("the credential has expired: ask for a new one")
	ErrNotBound     = errors.New("the app is not bound to this service: its project's deployers can bind it")
	ErrNotGranted   = errors.New("the token is good, and nothing is granted to who has it: oidc.grants of the schedulers' configuration say what is, as far as the projects are there and of the accounts that stand before them")
	ErrAgent        = errors.New("an agent's token may not look services up")
	ErrNotReady     = errors.New("this scheduler knows nothing of the cluster before it has heard a leader: try again in a moment; there is none while a majority of the schedulers is down")
	ErrUnsigned     = signature.ErrUnsigned // the body has to be signed, and isn't
	ErrNoKeys       = errors.New("this scheduler can't check tokens of the external issuer now: try again in a moment; its log says why")
)

// HTTPStatus is the status that an error of Request is answered with.
func HTTPStatus(err error) int {
	switch {
	case errors.Is(err, ErrNotReady), errors.Is(err, ErrNoKeys):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrNotBound), errors.Is(err, ErrAgent), errors.Is(err, ErrNotGranted):
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// Sealer encrypts the secrets of keys and apps, and decrypts them.
type Sealer interface {
	Seal(secret []byte, about string) (*fleetv1.SealedKey, error)
	Open(sealed *fleetv1.SealedKey, about string) ([]byte, error)
}

// External finds out who shows a token that somebody else has issued.
type External interface {
	// Bearer answers ErrUnknownToken, ErrExpired, or ErrNoKeys while no token can be checked, which may be wrapped.
	Bearer(ctx context.Context, token string) (Bearer, error)
}

// Bearer is who shows a token of an external issuer.
type Bearer struct {
	Name   string
	Grants []Grant // in the order of the configuration
}

// Grant is a role in a project, or in all, as far as that project belongs to that account.
type Grant struct{ Account, Project, Role string }

// AuthenticatorConfig is what an Authenticator goes by.
type AuthenticatorConfig struct {
	// View is the store of the moment.
	View   func() state.ReadView
	Sealer Sealer
	// External is nil when there are no external issuers.
	External External
	// AllowUnsigned takes signatures that don't cover the body, where they say so.
	AllowUnsigned bool
	Now           func() time.Time
	Logger        *slog.Logger
}

// unsealAgain is how long a secret that can't be decrypted counts as that.
const unsealAgain = 10 * time.Second

// Authenticator finds out who shows a credential. What it has found of one it keeps until that changes, so that a call
// costs a look-up.
type Authenticator struct {
	cfg  AuthenticatorConfig
	seen sync.Map // *seen by the stored object, which is never changed
}

// NewAuthenticator makes one.
func NewAuthenticator(cfg AuthenticatorConfig) *Authenticator { return &Authenticator{cfg: cfg} }

// seen is a credential that has been shown.
type seen struct {
	key     state.Key
	caller  Caller
	secret  string    // of a key or app; empty when it can't be decrypted
	retry   time.Time // when to try to decrypt it again
	expires time.Time
	used    atomic.Int64 // Unix time of the last use
}

// use notes that the credential was shown and found right, and answers whose it is.
func (s *seen) use(now time.Time) (Caller, error) {
	if !s.expires.IsZero() && !now.Before(s.expires) {
		return Caller{}, ErrExpired
	}
	s.used.Store(now.Unix())
	return s.caller, nil
}

// Secret finds the caller who knows a token's secret, or shows the token of an external issuer.
func (a *Authenticator) Secret(ctx context.Context, secret string) (Caller, error) {
	view := a.cfg.View()
	switch {
	case view.Cluster() == nil:
		return Caller{}, ErrNotReady
	case secret == "":
		return Caller{}, ErrNoToken
	}
	sum := Hash(secret)
	t := view.TokenBySecret(sum)
	if t != nil && subtle.ConstantTimeCompare(t.GetSecretSha256(), sum) == 1 {
		return a.token(view, t).use(a.cfg.Now())
	}
	if a.cfg.External != nil && strings.Count(secret, ".") == 2 {
		return a.external(ctx, view, secret)
	}
	return Caller{}, ErrUnknownToken
}

// external is the caller whom an external issuer knows. A grant in a project that there isn't, or that belongs to another
// account than the grant says, counts for nothing.
func (a *Authenticator) external(ctx context.Context, view state.ReadView, token string) (Caller, error) {
	bearer, err := a.cfg.External.Bearer(ctx, token)
	if err != nil {
		return Caller{}, err
	}
	var grants []Grant // the mightiest of each project
	for _, g := range bearer.Grants {
		if p := view.Project(g.Project); p == nil || p.GetMeta().GetAccount() != g.Account {
			continue
		}
		if i := slices.IndexFunc(grants, func(o Grant) bool { return o.Project == g.Project }); i < 0 {
			grants = append(grants, g)
		} else if slices.Index(Roles(), g.Role) < slices.Index(Roles(), grants[i].Role) {
			grants[i] = g
		}
	}
	if len(grants) == 0 {
		return Caller{}, ErrNotGranted
	}
	slices.SortStableFunc(grants, func(a, b Grant) int { return everywhere(b.Role) - everywhere(a.Role) })
	c := Caller{Name: bearer.Name, User: bearer.Name, Role: grants[0].Role, Project: grants[0].Project, Account: grants[0].Account}
	for _, g := range grants[1:] {
		c.Scopes = strings.TrimSpace(c.Scopes + " " + g.Project + "=" + g.Role)
	}
	return c, nil
}

// everywhere is 2 or 1 for roles that hold in every project, the mightier first, and 0 for others.
func everywhere(role string) int {
	return max(0, 2-slices.Index(Roles(), role))
}

func (a *Authenticator) token(view state.ReadView, t *fleetv1.Token) *seen {
	if s, ok := a.seen.Load(t); ok {
		return s.(*seen)
	}
	return a.keep(t, &seen{key: state.Key{Kind: fleetv1.KindToken, Key: t.GetMeta().GetName()}, caller: callerOf(view, t), expires: timeOf(t.GetExpireTime())})
}

func (a *Authenticator) keep(of proto.Message, s *seen) *seen {
	kept, _ := a.seen.LoadOrStore(of, s)
	return kept.(*seen)
}

// CallerOf is the caller who shows this token, in the account that the token itself says.
func CallerOf(t *fleetv1.Token) Caller { return callerOf(nil, t) }

func callerOf(view state.ReadView, t *fleetv1.Token) Caller {
	c := Caller{Name: t.GetMeta().GetName(), User: t.GetUser(), Role: t.GetRole(), Project: t.GetMeta().GetProject(),
		Account: t.GetMeta().GetAccount(), Scopes: scopesText(t.GetScopes())}
	return c.complete(view)
}

// complete fills in what older objects don't say, and the user's account.
func (c Caller) complete(view state.ReadView) Caller {
	if view != nil && c.User != "" {
		c.Account = view.User(c.User).GetMeta().GetAccount()
	}
	for _, f := range []struct {
		field *string
		or    string
	}{{&c.User, c.Name}, {&c.Project, fleetv1.Default}, {&c.Account, fleetv1.Default}} {
		if *f.field == "" {
			*f.field = f.or
		}
	}
	return c
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Request finds the caller of an HTTP request, whose body was read before; he may look services up. When the path
// is that of a project's service, the caller is as in that project if he has anything to do with it, else as in his own.
func (a *Authenticator) Request(r *http.Request, body []byte) (Caller, error) {
	view := a.cfg.View()
	if view.Cluster() == nil {
		return Caller{}, ErrNotReady
	}
	tokens, codes, signed := r.Header["X-Auth-Token"], r.Header["X-Apig-Appcode"], signature.Is(r)
	shown := len(tokens) + len(codes)
	if signed {
		shown++
	}
	project, service := pathNames(r.URL.Path)
	var c Caller
	var err error
	switch {
	case shown != 1 || len(tokens) == 1 && tokens[0] == "":
		return Caller{}, ErrNoCredential
	case len(tokens) == 1:
		c, err = a.Secret(r.Context(), tokens[0])
	case len(codes) == 1:
		sum := Hash(codes[0])
		app := view.AppByCode(sum)
		if app == nil {
			return Caller{}, ErrUnknownCode
		}
		if c, err = a.app(app).use(a.cfg.Now()); err == nil {
			err = bound(view, app, project, service)
		}
	default:
		c, err = a.signed(view, r, body, project, service)
	}
	switch {
	case err != nil:
		return Caller{}, err
	case c.Role == fleetv1.RoleAgent:
		return Caller{}, ErrAgent
	}
	c, _ = c.In(project)
	return c, nil
}

// signed is the caller who has signed the request.
func (a *Authenticator) signed(view state.ReadView, r *http.Request, body []byte, project, service string) (Caller, error) {
	claim, err := signature.Parse(r)
	if err != nil {
		return Caller{}, err
	}
	s, app := a.signer(view, claim.Access)
	if err := claim.Verify(signature.Verifier{Secret: s.secret, Body: body, AllowUnsigned: a.cfg.AllowUnsigned, Now: a.cfg.Now()}); err != nil {
		return Caller{}, err
	}
	c, err := s.use(a.cfg.Now())
	if err == nil && app != nil {
		err = bound(view, app, project, service)
	}
	return c, err
}

// signer is who has the access key; one that nobody has is a credential without a secret, and so is one whose secret can't
// be decrypted: they look the same.
func (a *Authenticator) signer(view state.ReadView, access string) (*seen, *fleetv1.App) {
	if k := view.Key(access); k != nil {
		return a.key(view, k), nil
	}
	app := view.AppByKey(access)
	if app == nil || app.GetAppKey() != access { // the digest of a code is none
		return &seen{}, nil
	}
	return a.app(app), app
}

func (a *Authenticator) key(view state.ReadView, k *fleetv1.Key) *seen {
	if s := a.unsealed(k); s != nil {
		return s
	}
	own := k.GetScopes()[0]
	c := Caller{Name: k.GetMeta().GetName(), User: k.GetUser(), Role: own.GetRole(), Project: own.GetProject(), Scopes: scopesText(k.GetScopes()[1:])}
	s := &seen{key: state.Key{Kind: fleetv1.KindKey, Key: c.Name}, caller: c.complete(view), expires: timeOf(k.GetExpireTime())}
	return a.unseal(k, s, k.GetSecret(), AboutKey(c.Name))
}

// app is a credential without a secret when that can't be decrypted: its codes are good all the same.
func (a *Authenticator) app(app *fleetv1.App) *seen {
	if s := a.unsealed(app); s != nil {
		return s
	}
	m := app.GetMeta()
	s := &seen{key: state.AppKey(m.GetProject(), m.GetName()),
		caller: Caller{Name: m.GetName(), User: "app/" + m.GetProject() + "/" + m.GetName(), Role: fleetv1.RoleLookup, Project: m.GetProject(), Account: m.GetAccount()}}
	return a.unseal(app, s, app.GetSecret(), AboutApp(m.GetProject(), m.GetName()))
}

// unsealed is what is kept of a key or app, or nil when its secret is to be decrypted, for the first time or again.
func (a *Authenticator) unsealed(of proto.Message) *seen {
	kept, ok := a.seen.Load(of)
	if !ok {
		return nil
	}
	if s := kept.(*seen); s.secret != "" || a.cfg.Now().Before(s.retry) {
		return s
	}
	return nil
}

// unseal decrypts the secret of a key or app and keeps what was found out. What can't be decrypted is told to the log and not
// to who shows it, and tried again after unsealAgain: somebody may put the key file right.
func (a *Authenticator) unseal(of proto.Message, s *seen, sealed *fleetv1.SealedKey, about string) *seen {
	secret, err := a.cfg.Sealer.Open(sealed, about)
	s.secret = string(secret)
	if err != nil {
		a.cfg.Logger.Warn("a secret can't be decrypted: who signs with it is refused as if it weren't known", "of", about, "error", err)
		s.secret, s.retry = "", a.cfg.Now().Add(unsealAgain)
	}
	if before, ok := a.seen.Swap(of, s); ok {
		s.used.Store(max(s.used.Load(), before.(*seen).used.Load()))
	}
	return s
}

// AboutKey and AboutApp are what the secrets of a key and an app are sealed for.
func AboutKey(access string) string { return "key " + access }

// AboutApp is explained with AboutKey.
func AboutApp(project, name string) string { return "app " + project + "/" + name }

// bound says whether an app may look up the service of a path. Another project's is for the caller to find absent, and so is
// one that the app is bound to and that is deleted.
func bound(view state.ReadView, app *fleetv1.App, project, service string) error {
	if project != "" && project != app.GetMeta().GetProject() {
		return nil
	}
	s := view.Service(app.GetMeta().GetProject(), service)
	for _, name := range app.GetServices() {
		id := app.GetServiceIds()[name]
		if s == nil && (name == service || id == service) || s.GetMeta().GetName() == name && (id == "" || s.GetMeta().GetId() == id) {
			return nil
		}
	}
	return ErrNotBound
}

// pathNames takes the names out of /v1/{project}/services/{service}/…; both are empty for another path.
func pathNames(path string) (project, service string) {
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		return "", ""
	}
	project, rest, ok = strings.Cut(rest, "/services/")
	if !ok {
		return "", ""
	}
	service, _, _ = strings.Cut(rest, "/")
	return project, service
}
