package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func image(t *testing.T, os, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(512, 2)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = os, arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, ref string, what remote.Taggable, opts ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if img, ok := what.(v1.Image); ok {
		err = remote.Write(r, img, opts...)
	} else {
		err = remote.WriteIndex(r, what.(v1.ImageIndex), opts...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestResolveImage(t *testing.T) {
	host := serve(t, nil)
	img := image(t, "linux", "arm64")
	push(t, host+"/m/iris:1", img)
	want, _ := img.Digest()
	for _, ref := range []string{host + "/m/iris:1", host + "/m/iris@" + want.String()} {
		got, err := New(Config{}).Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != want.String() || !slices.Equal(got.Arches, []string{"arm64"}) || got.Bytes < 1024 {
			t.Errorf("%s: got %+v, want digest %s", ref, got, want)
		}
	}
}

func TestResolveIndex(t *testing.T) {
	host := serve(t, nil)
	var index v1.ImageIndex = empty.Index
	for _, p := range []v1.Platform{
		{OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "amd64"},
		{OS: "windows", Architecture: "amd64"}, {OS: "unknown", Architecture: "unknown"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"},
	} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image(t, p.OS, p.Architecture), Descriptor: v1.Descriptor{Platform: &p}})
	}
	index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image(t, "linux", "riscv64")})
	push(t, host+"/m/many:1", index)
	want, _ := index.Digest()
	got, err := New(Config{}).Resolve(t.Context(), host+"/m/many:1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.String() || !slices.Equal(got.Arches, []string{"amd64", "arm64", "riscv64"}) {
		t.Errorf("got %+v, want digest %s and amd64, arm64, riscv64", got, want)
	}
}

func basicAuth(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func dockerConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func auths(host, user, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func TestResolvePrivate(t *testing.T) {
	open := serve(t, nil)
	img := image(t, "linux", "amd64")
	push(t, open+"/m/iris:1", img)
	private := serve(t, func(http.Handler) http.Handler {
		return basicAuth("ann", "s3cret")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Host, r.URL.Scheme, r.RequestURI = open, "http", ""
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			for k, v := range resp.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(resp.StatusCode)
			io.Copy(w, resp.Body)
		}))
	})
	ref := private + "/m/iris:1"

	path := dockerConfig(t, auths(private, "ann", "s3cret"))
	if _, err := New(Config{DockerConfig: path}).Resolve(t.Context(), ref); err != nil {
		t.Errorf("right credentials: %v", err)
	}
	for _, c := range []struct{ name, config, hint string }{
		{"none configured", "", "set registry.docker_config"},
		{"none for this host", dockerConfig(t, auths("elsewhere", "ann", "s3cret")), "has no credentials for it: log in"},
		{"wrong", dockerConfig(t, auths(private, "ann", "guess")), "are wrong"},
		{"file missing", filepath.Join(t.TempDir(), "absent.json"), "mend the Docker config file"},
		{"file broken", dockerConfig(t, `{"auths":`), "mend the Docker config file"},
	} {
		_, err := New(Config{DockerConfig: c.config}).Resolve(t.Context(), ref)
		wantError(t, c.name, err, ErrUnauthorized, c.hint)
		if err != nil && strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: the error shows a secret: %v", c.name, err)
		}
	}
}

func wantError(t *testing.T, what string, err, kind error, hint string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got error %v, want kind %q", what, err, kind)
		return
	}
	if !strings.Contains(err.Error(), hint) || strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("%s: %q should be one line with %q", what, err, hint)
	}
}

func TestResolveErrors(t *testing.T) {
	host := serve(t, nil)
	push(t, host+"/m/iris:1", image(t, "linux", "amd64"))
	push(t, host+"/m/win:1", image(t, "windows", "amd64"))
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	broken := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	})
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(secure.Close)
	for _, c := range []struct {
		name, ref, hint string
		kind            error
	}{
		{"no such tag", host + "/m/iris:2", "check repository and tag", ErrNotFound},
		{"no such repository", host + "/m/rose:1", "check repository and tag", ErrNotFound},
		{"not for Linux", host + "/m/win:1", "linux/amd64", ErrNotFound},
		{"capitals", host + "/M/Iris:1", "in lower case", ErrBadReference},
		{"empty", "", "write it as", ErrBadReference},
		{"blank", "a b", "write it as", ErrBadReference},
		{"registry down", gone.Addr().String() + "/m/iris:1", "check that the registry runs", ErrUnreachable},
		{"registry broken", broken + "/m/iris:1", "registry's own log", ErrUnreachable},
		{"TLS where plain is expected", strings.TrimPrefix(secure.URL, "https://") + "/m/iris:1", "", ErrUnreachable},
	} {
		_, err := New(Config{}).Resolve(t.Context(), c.ref)
		wantError(t, c.name, err, c.kind, c.hint)
	}
}

func TestResolvePlainHostNotConfigured(t *testing.T) {
	host := serve(t, nil)
	r := New(Config{})
	r.transport = oneScheme{plain: func(string) bool { return false }, next: http.DefaultTransport}
	_, err := r.Resolve(t.Context(), host+"/m/iris:1")
	wantError(t, "plain registry", err, ErrUnreachable, "registry.plain_http")
}

func TestResolveDeadline(t *testing.T) {
	release := make(chan struct{})
	host := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
	})
	defer close(release)
	r := New(Config{})
	r.timeout = 20 * time.Millisecond
	_, err := r.Resolve(context.Background(), host+"/m/iris:1")
	wantError(t, "silent registry", err, ErrUnreachable, "no answer within 20ms")
}

func TestPlainHTTP(t *testing.T) {
	r := New(Config{PlainHTTP: []string{"reg.lan:5000", "10.1.2.3"}})
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:5000": true, "localhost:1": true, "[::1]:5000": true, "::1": true,
		"reg.lan:5000": true, "reg.lan": false, "10.1.2.3:5000": true, "10.1.2.4:5000": false,
		"docker.io": false, "127.0.0.1.example.com": false,
	} {
		if got := r.PlainHTTP(host); got != want {
			t.Errorf("PlainHTTP(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nread host\n[ \"$host\" = helped.lan ] && echo '{\"Username\":\"<token>\",\"Secret\":\"tok\"}' && exit 0\n" +
		"echo 'credentials not found in native keychain'; exit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-drovertest"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	path := dockerConfig(t, `{"credHelpers":{"helped.lan":"drovertest","bare.lan":"drovertest","lost.lan":"absent"},
		"auths":{"https://index.docker.io/v1/":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("hub:pw"))+`"},
		"tok.lan":{"identitytoken":"id"}}}`)
	r := New(Config{DockerConfig: path})
	for _, c := range []struct{ host, user, secret, err string }{
		{"helped.lan", "", "tok", ""}, {"bare.lan", "", "", ""}, {"registry-1.docker.io", "hub", "pw", ""},
		{"docker.io", "hub", "pw", ""}, {"tok.lan", "", "id", ""}, {"unknown.lan", "", "", ""},
		{"lost.lan", "", "", "docker-credential-absent"},
	} {
		user, secret, err := r.Credentials(c.host)
		if user != c.user || secret != c.secret || (err != nil) != (c.err != "") {
			t.Errorf("%s: got %q %q %v, want %q %q %q", c.host, user, secret, err, c.user, c.secret, c.err)
		}
		if err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v doesn't name %s", c.host, err, c.err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"", "a", "host:5000/a/b:1", "a@sha256:00", "A/b", "a:b:c", "//", "a/b@sha256:" + strings.Repeat("0", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := Check(s); err != nil && !errors.Is(err, ErrBadReference) {
			t.Errorf("Check(%q) = %v, want ErrBadReference", s, err)
		}
	})
}
