package signature

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/signer"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"
)

const access, secret = "AKDROVER0001", "s3cret/key+"

// server verifies what it is sent and answers 200, or 401 with the reason.
func server(t *testing.T, unsigned bool) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := verify(r, unsigned, time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func verify(r *http.Request, unsigned bool, now time.Time) error {
	s, err := Parse(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	v := Verifier{Body: body, AllowUnsigned: unsigned, Now: now}
	if s.Access == access {
		v.Secret = secret
	}
	return s.Verify(v)
}

// reference is a request that the reference client has signed.
func reference(t *testing.T, base, method, path string, query map[string]any, header map[string]string, body any) *http.Request {
	t.Helper()
	b := request.NewHttpRequestBuilder().WithMethod(method).WithEndpoint(base).WithPath(path)
	for k, v := range query {
		b.AddQueryParam(k, reflect.ValueOf(v))
	}
	b.AddHeaderParam("Host", strings.TrimPrefix(base, "http://"))
	for k, v := range header {
		b.AddHeaderParam(k, v)
	}
	if body != nil {
		b.WithBody("body", body)
	}
	built := b.Build()
	headers, err := signer.Sign(built, access, secret)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		built.AddHeaderParam(k, v)
	}
	r, err := built.ConvertRequest()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func send(t *testing.T, r *http.Request) (status int, body string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(raw))
}

func TestReferenceClient(t *testing.T) {
	s := server(t, false)
	for _, c := range []struct {
		name, method, path string
		query              map[string]any
		header             map[string]string
		body               any
	}{
		{"plain", "GET", "/v1/default/services/web/predict/endpoints", map[string]any{"type": "host_endpoints"}, nil, nil},
		{"root", "GET", "/", nil, nil, nil},
		{"no path", "GET", "", nil, nil, nil},
		{"slash at the end", "HEAD", "/a/b/", nil, nil, nil},
		{"empty segment", "DELETE", "/a//b", nil, nil, nil},
		{"encoded path", "GET", "/a b/ü/~x/100%/a+b/(c)!*'", nil, nil, nil},
		{"encoded query", "GET", "/q", map[string]any{"a b": "c d", "ü": "é+&=%", "empty": "", "A": "1", "a": "2", "a-": "3", "~": "~"}, nil, nil},
		{"several values", "GET", "/q", map[string]any{"k": []string{"b", "a", "B", "-", "%"}}, nil, nil},
		{"number", "GET", "/q", map[string]any{"limit": 10, "marker": true}, nil, nil},
		{"headers", "GET", "/h", nil, map[string]string{"X-Project-Id": "p1", "Accept": "text/plain ; q=1", "X_Underscore": "u"}, nil},
		{"JSON body", "POST", "/b", nil, map[string]string{"Content-Type": "application/json"}, map[string]any{"a": 1, "b": "ü<>"}},
		{"body of text", "PUT", "/b", map[string]any{"x": "y"}, nil, "some text\r\n\x00"},
		{"long body", "PATCH", "/b", nil, nil, strings.Repeat("0123456789", 100_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, body := send(t, reference(t, s.URL, c.method, c.path, c.query, c.header, c.body)); code != http.StatusOK {
				t.Errorf("%d: %s", code, body)
			}
		})
	}
}

// Whatever the reference client signs verifies.
func TestReferenceClientAtRandom(t *testing.T) {
	s := server(t, false)
	rng := rand.New(rand.NewPCG(1, 2))
	const alphabet = "abcXYZ019-_.~ !*'();:@&=+$,/?#[]%üé中\"<>\\^`{|}"
	text := func(max int, without string) string {
		runes := []rune(alphabet)
		var b strings.Builder
		for range rng.IntN(max + 1) {
			if r := runes[rng.IntN(len(runes))]; !strings.ContainsRune(without, r) {
				b.WriteRune(r)
			}
		}
		return b.String()
	}
	for i := range 300 {
		path := "/p" + text(4, "/?#.") + "/x" + text(8, "/?#")
		query := map[string]any{}
		for range rng.IntN(5) {
			if k := text(6, ""); k != "" {
				query[k] = text(8, "")
			}
		}
		method := []string{"GET", "POST", "PUT", "DELETE"}[rng.IntN(4)]
		var body any
		if method != "GET" {
			body = text(100, "")
		}
		if code, answer := send(t, reference(t, s.URL, method, path, query, nil, body)); code != http.StatusOK {
			t.Fatalf("%d: %s %q %q: %d: %s", i, method, path, query, code, answer)
		}
	}
}

func TestUnsignedPayload(t *testing.T) {
	// The reference client doesn't sign bodies of other types.
	make := func(s *httptest.Server) *http.Request {
		return reference(t, s.URL, "POST", "/upload", nil, map[string]string{"Content-Type": "text/csv"}, "1,2,3")
	}
	if code, body := send(t, make(server(t, true))); code != http.StatusOK {
		t.Errorf("%d: %s", code, body)
	}
	if code, body := send(t, make(server(t, false))); code != http.StatusUnauthorized || !strings.Contains(body, "not allowed here") {
		t.Errorf("%d: %s", code, body)
	}
}

// received is a request as a server has it, signed by Sign.
func received(t testing.TB, method, target, body string, at time.Time) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Extra", "e")
	if err := Sign(r, access, secret, at); err != nil {
		t.Fatal(err)
	}
	return asServer(t, r, body)
}

// asServer is what a server gets of a client's request.
func asServer(t testing.TB, r *http.Request, body string) *http.Request {
	t.Helper()
	out := httptest.NewRequest(r.Method, r.URL.RequestURI(), strings.NewReader(body))
	out.Host, out.Header = r.URL.Host, r.Header.Clone()
	return out
}

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestSignedVerifies(t *testing.T) {
	for _, skew := range []time.Duration{0, Window, -Window} {
		if err := verify(received(t, "POST", "http://h:1/a%20b/c?y=2&x=1&x=0", "body", at), false, at.Add(skew)); err != nil {
			t.Errorf("%v later: %v", skew, err)
		}
	}
}

func TestRefused(t *testing.T) {
	change := func(name string, value ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = value }
	}
	authorization := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		late   time.Duration
		want   string // of the error
	}{
		{name: "replayed later", change: func(*http.Request) {}, late: Window + time.Second, want: "check the client's clock"},
		{name: "from the future", change: func(*http.Request) {}, late: -Window - time.Second, want: "check the client's clock"},
		{name: "other date", change: change(HeaderDate, at.Add(time.Second).Format(timeFormat)), want: ErrMismatch.Error()},
		{name: "date of another form", change: change(HeaderDate, at.Format(time.RFC3339)), want: "is not of the form"},
		{name: "no date", change: change(HeaderDate), want: "comes 0 times"},
		{name: "two dates", change: change(HeaderDate, at.Format(timeFormat), at.Format(timeFormat)), want: "comes 2 times"},
		{name: "two signatures", change: func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }, want: "comes 2 times"},
		{name: "signed header twice", change: change("X-Extra", "e", "e"), want: "header x-extra comes 2 times"},
		{name: "signed header changed", change: change("X-Extra", "f"), want: ErrMismatch.Error()},
		{name: "signed header gone", change: change("X-Extra"), want: "header x-extra comes 0 times"},
		{name: "other host", change: func(r *http.Request) { r.Host = "h:2" }, want: ErrMismatch.Error()},
		{name: "other method", change: func(r *http.Request) { r.Method = "PUT" }, want: ErrMismatch.Error()},
		{name: "other path", change: func(r *http.Request) { r.URL.Path = "/b" }, want: ErrMismatch.Error()},
		{name: "dots in the path", change: func(r *http.Request) { r.URL.Path = "/a/../a" }, want: "taken for another path"},
		{name: "encoded dots", change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/../a", "/%2e%2e/a" }, want: "taken for another path"},
		{name: "encoded slash", change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a/b", "/a%2Fb" }, want: "taken for another path"},
		{name: "encoded twice", change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a%20", "/a%2520" }, want: ErrMismatch.Error()},
		{name: "other query", change: func(r *http.Request) { r.URL.RawQuery = "x=2" }, want: ErrMismatch.Error()},
		{name: "more query", change: func(r *http.Request) { r.URL.RawQuery += "&z=" }, want: ErrMismatch.Error()},
		{name: "bad query", change: func(r *http.Request) { r.URL.RawQuery = "x=%zz" }, want: "can't be decoded"},
		{name: "other body", change: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("other")) }, want: ErrMismatch.Error()},
		{name: "digest of another body", change: change(HeaderDigest, strings.Repeat("0", 64)), want: "is not the SHA-256"},
		{name: "two digests", change: change(HeaderDigest, Unsigned, Unsigned), want: "comes 2 times"},
		{name: "digest that wasn't signed", change: change(HeaderDigest, Unsigned), want: "not allowed here"},
		{name: "unknown key", change: authorization("Access="+access, "Access=AKOTHER"), want: ErrMismatch.Error()},
		{name: "other algorithm", change: authorization(Algorithm, "SDK-HMAC-SM3"), want: "doesn't begin with"},
		{name: "no key", change: authorization("Access="+access, "Access="), want: "has no Access="},
		{name: "no signature", change: authorization("Signature=", "Sig="), want: "has no Signature="},
		{name: "parts missing", change: change("Authorization", Algorithm+" Access=a"), want: "needs Access="},
		{name: "host not signed", change: authorization("host;", ""), want: "have to be among"},
		{name: "date not signed", change: authorization(";x-sdk-date", ""), want: "have to be among"},
		{name: "names out of order", change: authorization("host;x-extra", "x-extra;host"), want: "not sorted"},
		{name: "name twice", change: authorization("host;", "host;host;"), want: "name a header twice"},
		{name: "upper case", change: authorization("host;x-extra", "Host;x-extra"), want: "not in lower case"},
		{name: "too many", change: authorization("host;", strings.Repeat("a;", 70)+"host;"), want: "at most 64"},
		{name: "signature in upper case", change: func(r *http.Request) {
			head, sig, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			r.Header.Set("Authorization", head+"Signature="+strings.ToUpper(sig))
		}, want: ErrMismatch.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := received(t, "POST", "http://h:1/a?x=1", "body", at)
			c.change(r)
			if err := verify(r, false, at.Add(c.late)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A key without a secret is nobody's: not even a signature with the empty secret is one.
func TestEmptySecret(t *testing.T) {
	r, err := http.NewRequest("GET", "http://h:1/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Sign(r, "AKOTHER", "", at); err != nil {
		t.Fatal(err)
	}
	if err := verify(asServer(t, r, ""), false, at); !errors.Is(err, ErrMismatch) {
		t.Error(err)
	}
}

func TestIs(t *testing.T) {
	for header, want := range map[string]bool{Algorithm + " x": true, Algorithm: true, "Bearer x": false, Algorithm + "x": false} {
		if got := Is(&http.Request{Header: http.Header{"Authorization": {header}}}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
	if Is(&http.Request{Header: http.Header{}}) {
		t.Error("a request without the header is signed")
	}
}

func TestSignRefuses(t *testing.T) {
	for name, prepare := range map[string]func(r *http.Request){
		"two values":          func(r *http.Request) { r.Header["X-A"] = []string{"1", "2"} },
		"body read only once": func(r *http.Request) { r.Body, r.GetBody = io.NopCloser(bytes.NewReader(nil)), nil },
		"dots":                func(r *http.Request) { r.URL.Path = "/../x" },
		"bad query":           func(r *http.Request) { r.URL.RawQuery = "%" },
	} {
		r, err := http.NewRequest("POST", "http://h:1/a", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		prepare(r)
		if err := Sign(r, access, secret, at); err == nil {
			t.Errorf("%s: it is signed", name)
		}
	}
}

// FuzzVerify signs any request: it verifies, and with any one byte changed on the way it doesn't, unless the change
// has left the request that was signed.
func FuzzVerify(f *testing.F) {
	f.Add("POST", "/v1/a b", "x=1&y=%20", "value", "body", uint16(3), byte(1))
	f.Add("GET", "/", "", "", "", uint16(0), byte(0x20))
	f.Fuzz(func(t *testing.T, method, path, query, extra, body string, where uint16, flip byte) {
		if flip == 0 || !token(method) || strings.ContainsFunc(extra, func(r rune) bool { return r < ' ' || r > '~' }) {
			return
		}
		client, err := http.NewRequest(method, "http://h:1/", strings.NewReader(body))
		if err != nil {
			return
		}
		client.URL.Path, client.URL.RawQuery = "/"+path, query
		client.Header.Set("X-Extra", extra)
		if Sign(client, access, secret, at) != nil {
			return
		}
		server := func() *http.Request {
			u := *client.URL
			return &http.Request{Method: method, URL: &u, Host: "h:1", Header: client.Header.Clone(), Body: io.NopCloser(strings.NewReader(body))}
		}
		if err := verify(server(), false, at); err != nil {
			t.Fatalf("%s %q %q: %v", method, path, query, err)
		}
		parts := []string{method, client.URL.Path, query, client.Header.Get("X-Extra"), body, client.Header.Get(HeaderDate), client.Header.Get("Authorization"), "h:1"}
		changed := flipped(parts, int(where), flip)
		r := server()
		r.Method, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.Host = changed[0], changed[1], "", changed[2], changed[7]
		r.Header["X-Extra"], r.Header[HeaderDate], r.Header["Authorization"] = changed[3:4], changed[5:6], changed[6:7]
		r.Body = io.NopCloser(strings.NewReader(changed[4]))
		if verify(r, false, at) == nil && !sameRequest(parts, changed) {
			t.Fatalf("it verifies:\n%q\n%q", parts, changed)
		}
	})
}

// flipped changes one byte of all parts together.
func flipped(parts []string, where int, flip byte) []string {
	out := append([]string(nil), parts...)
	total := len(strings.Join(parts, ""))
	where %= total
	for i, p := range out {
		if where < len(p) {
			b := []byte(p)
			b[where] ^= flip
			out[i] = string(b)
			return out
		}
		where -= len(p)
	}
	return out
}

// sameRequest says that two requests mean the same: the canonical form has one for both.
func sameRequest(a, b []string) bool {
	form := func(p []string) string {
		query, err := canonicalQuery(p[2])
		if err != nil {
			return "bad query"
		}
		return fmt.Sprintf("%q", []string{p[0], strings.TrimSuffix(p[1], "/"), query, strings.TrimSpace(p[3]), p[4], p[5], strings.Join(strings.Fields(p[6]), " "), p[7]})
	}
	return form(a) == form(b)
}

func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r) })
}

func BenchmarkVerify(b *testing.B) {
	r := received(b, "GET", "http://h:1/v1/default/services/web/predict/endpoints?type=host_endpoints", "", at)
	b.ReportAllocs()
	for b.Loop() {
		s, err := Parse(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Verify(Verifier{Secret: secret, Now: at}); err != nil {
			b.Fatal(err)
		}
	}
}
