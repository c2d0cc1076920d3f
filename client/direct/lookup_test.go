package direct

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/signature"
)

func TestCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		by   Credentials
		good func(r *http.Request) bool
	}{
		"token":    {Credentials{Token: "t"}, func(r *http.Request) bool { return r.Header.Get("X-Auth-Token") == "t" }},
		"app code": {Credentials{AppCode: "c"}, func(r *http.Request) bool { return r.Header.Get("X-Apig-AppCode") == "c" }},
		"key": {Credentials{AccessKey: "a", SecretKey: "s"}, func(r *http.Request) bool {
			signed, err := signature.Parse(r)
			return err == nil && signed.Access == "a" && signed.Verify(signature.Verifier{Secret: "s", Now: time.Now()}) == nil
		}},
		"none": {Credentials{}, func(r *http.Request) bool { return len(r.Header["Authorization"]) == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !c.good(r) {
					w.WriteHeader(http.StatusUnauthorized)
				}
				w.Write([]byte(`{"host_endpoints":[]}`))
			}))
			defer srv.Close()
			cfg, err := Config{Schedulers: []string{srv.URL}, Service: "a b", Network: "x&y", MaxStale: 5 * time.Second, Credentials: c.by}.checked()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Lookup(t.Context(), srv.Client(), cfg.url(srv.URL, "&index=1&wait=30s"), c.by); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stolen" {
			t.Error("the credentials were sent on")
		}
		http.Redirect(w, r, "/stolen", http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	hc, err := NewHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	defer hc.CloseIdleConnections()
	var l *LookupError
	if _, err := Lookup(t.Context(), hc, LookupURL(srv.URL, "p", "s"), Credentials{Token: "t"}); !errors.As(err, &l) || l.Status != http.StatusTemporaryRedirect {
		t.Errorf("error %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Schedulers: []string{"https://s:7401", "http://127.0.0.1:7401/", "http://localhost:1"}, Service: "iris"}
	if _, err := good.checked(); err != nil {
		t.Fatal(err)
	}
	for wrong, c := range map[string]func(*Config){
		"service: it is empty":                      func(c *Config) { c.Service = "" },
		"schedulers: there are none":                func(c *Config) { c.Schedulers = nil },
		"credentials are only sent there over http": func(c *Config) { c.Schedulers = []string{"http://192.0.2.1:7401"} },
		`"s:7401" is not of the form`:               func(c *Config) { c.Schedulers = []string{"s:7401"} },
		`"https://s/x" is not of the form`:          func(c *Config) { c.Schedulers = []string{"https://s/x"} },
		`"https://u:p@s" is not of the form`:        func(c *Config) { c.Schedulers = []string{"https://u:p@s"} },
		"max stale: 1.5s":                           func(c *Config) { c.MaxStale = 1500 * time.Millisecond },
		"max stale: 25h0m0s":                        func(c *Config) { c.MaxStale = 25 * time.Hour },
		"give one of Token":                         func(c *Config) { c.Credentials = Credentials{Token: "t", AppCode: "c"} },
		"AccessKey and SecretKey belong":            func(c *Config) { c.Credentials = Credentials{AccessKey: "a"} },
		"read the CA file":                          func(c *Config) { c.CAFile = "none.pem" },
	} {
		cfg := good
		c(&cfg)
		if s, err := Follow(cfg); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%v, want %q", err, wrong)
			if s != nil {
				s.Close()
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for body, wrong := range map[string]string{
		``:                        "decode",
		`{}`:                      "no host_endpoints",
		`{"host_endpoints":null}`: "no host_endpoints",
		`{"host_endpoints":[{}]}`: "can't be called",
		`{"host_endpoints":[{"ip":"10.0.0.1","port":70000}]}`:            "can't be called",
		`{"host_endpoints":[{"ip":"evil.example/","port":1}]}`:           "can't be called",
		`{"host_endpoints":[{"ip":"10.0.0.1","port":1,"weight":-5}]}`:    "can't be called",
		`{"host_endpoints":[{"ip":"10.0.0.1","port":1,"weight":101}]}`:   "can't be called",
		`{"host_endpoints":[],"index":-1}`:                               "decode",
		`{"host_endpoints":[{"ip":"10.0.0.1","port":1,"weight":100.5}]}`: "decode",
	} {
		if _, err := decode([]byte(body)); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v, want %q", body, err, wrong)
		}
	}
}

func TestEvents(t *testing.T) {
	lines := 0
	r := newEventReader(strings.NewReader(": hello\n\ndata: a\r\ndata:b\nid: 3\n\r\nevent: x\n\ndata:\ndata: c\n\nevent: stale\ndata: true\n\ndata: cut off"), func() { lines++ })
	for _, want := range []event{{"", []byte("a\nb")}, {"", []byte("\nc")}, {"stale", []byte("true")}} {
		if got, err := r.next(); got.name != want.name || !bytes.Equal(got.data, want.data) || err != nil {
			t.Errorf("event %q, %v; want %q", got, err, want)
		}
	}
	if got, err := r.next(); err == nil {
		t.Errorf("an event without end: %q", got)
	}
	if lines != 15 {
		t.Errorf("heard %d lines", lines)
	}
	long := "data: " + strings.Repeat("x", maxLookupAnswer)
	many := strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n", 17)
	for _, s := range []string{long, many} {
		if _, err := newEventReader(strings.NewReader(s), func() {}).next(); !errors.Is(err, errTooLarge) {
			t.Errorf("too large: %v", err)
		}
	}
}

// FuzzEvents reads what a scheduler may send in a watch: no event has more than was sent, and each is an answer or an error.
func FuzzEvents(f *testing.F) {
	f.Add("data: {\"host_endpoints\":[],\"index\":3}\n\n: x\n\n")
	f.Add("data\ndata: x\r\n\r\n")
	f.Fuzz(func(t *testing.T, stream string) {
		r, total := newEventReader(bufio.NewReader(strings.NewReader(stream)), func() {}), 0
		for {
			e, err := r.next()
			if err != nil {
				break
			}
			total += len(e.data)
			if no := endOfWatch(e.data); no.Status < 400 || no.Status > 599 {
				t.Errorf("the watch ends with status %d", no.Status)
			}
			if answer, err := decode(e.data); err == nil {
				for _, e := range answer.HostEndpoints {
					if u, err := url.Parse("http://" + e.Address()); err != nil || u.Port() == "" {
						t.Errorf("endpoint %q makes no address: %v", e.Address(), err)
					}
				}
			}
		}
		if total > len(stream) {
			t.Errorf("%d bytes of events in a stream of %d", total, len(stream))
		}
	})
}
