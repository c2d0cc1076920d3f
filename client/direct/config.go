package direct

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/drover-fleet/drover/signature"
)

// Credentials say who looks up, in one of three ways. With none, requests say nothing.
type Credentials struct {
	// Token is sent with every request, in X-Auth-Token.
	Token string
	// AccessKey and SecretKey sign every request; the secret is never sent. An app's AppKey and AppSecret do the same.
	AccessKey, SecretKey string
	// AppCode is sent with every request, in X-Apig-AppCode.
	AppCode string
}

func (c Credentials) check() error {
	ways := 0
	for _, given := range []bool{c.Token != "", c.AccessKey != "" || c.SecretKey != "", c.AppCode != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New("credentials: give one of Token, AccessKey with SecretKey, and AppCode")
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return errors.New("credentials: AccessKey and SecretKey belong together, and one is empty")
	}
	return nil
}

// apply authenticates a request. Headers that it sets later are not signed.
func (c Credentials) apply(r *http.Request) error {
	switch {
	case c.Token != "":
		r.Header.Set("X-Auth-Token", c.Token)
	case c.AppCode != "":
		r.Header.Set("X-Apig-AppCode", c.AppCode)
	case c.AccessKey != "":
		return signature.Sign(r, c.AccessKey, c.SecretKey, time.Now())
	}
	return nil
}

// Config says which service is followed, and how.
type Config struct {
	// Schedulers are the addresses of the schedulers' HTTP, "https://host:port". Plain http is for this machine alone.
	Schedulers []string
	// Project is the name or ID of the service's project; "default" when empty.
	Project string
	// Service is the service's name or ID.
	Service     string
	Credentials Credentials
	// CAFile holds the certificates that the schedulers' ones are checked against; the system's when empty.
	CAFile string
	// Network in which the instances are called; empty leaves it to the scheduler.
	Network string
	// MaxStale refuses answers of schedulers that may have missed changes for longer, in whole seconds; 0 takes any.
	MaxStale time.Duration
	// Logger is told when the schedulers can't be asked and when they can again; nil for nobody.
	Logger *slog.Logger
}

// maxStale is what a scheduler takes.
const maxStale = 24 * time.Hour

// checked answers the configuration with its defaults, or what is wrong with it.
func (c Config) checked() (Config, error) {
	if c.Project == "" {
		c.Project = "default"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Service == "":
		return c, errors.New("service: it is empty; give the name or ID of the service to follow")
	case len(c.Schedulers) == 0:
		return c, errors.New("schedulers: there are none; give the https://host:port of each")
	case c.MaxStale < 0 || c.MaxStale > maxStale || c.MaxStale%time.Second != 0:
		return c, fmt.Errorf("max stale: %v is not a whole number of seconds up to %v", c.MaxStale, maxStale)
	}
	for _, s := range c.Schedulers {
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
			return c, fmt.Errorf("schedulers: %q is not of the form https://host:port", s)
		case u.Scheme == "http" && !loopback(u.Hostname()):
			return c, fmt.Errorf("schedulers: %s is not on this machine: credentials are only sent there over https", s)
		}
	}
	return c, c.Credentials.check()
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// url of the service's endpoints at one scheduler; query goes behind what every request has.
func (c Config) url(scheduler, query string) string {
	u := LookupURL(scheduler, c.Project, c.Service)
	if c.Network != "" {
		u += "&network=" + url.QueryEscape(c.Network)
	}
	if c.MaxStale > 0 {
		u += "&max_stale=" + strconv.Itoa(int(c.MaxStale/time.Second))
	}
	return u + query
}

// ReadCA reads the certificates of a file in PEM form.
func ReadCA(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// NewHTTPClient makes a client for look-ups, which checks schedulers by the certificates of a CA file, or the system's when
// it is empty. It notices within 15 s that a scheduler is gone which said nothing, and follows no redirect: net/http
// would send credentials along.
func NewHTTPClient(caFile string) (*http.Client, error) {
	t := &http.Transport{
		DialContext: (&net.Dialer{
			Timeout:         3 * time.Second,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3},
		}).DialContext,
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
	if caFile != "" {
		pool, err := ReadCA(caFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}
