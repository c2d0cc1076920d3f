package containerd_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

func TestImages(t *testing.T) {
	e := containerdtest.New(t)
	t.Run("BadPulls", func(t *testing.T) { testBadPulls(t, e) })
	t.Run("Together", func(t *testing.T) { testTogether(t, e) })
	t.Run("Credentials", func(t *testing.T) { testCredentials(t, e) })
	t.Run("Collect", func(t *testing.T) { testCollect(t, e) })
	t.Run("BadCommand", func(t *testing.T) { testBadCommand(t, e) })
	t.Run("Inside", func(t *testing.T) { testInside(t, e) })
}

// other is an architecture that Drover runs on nowhere.
const other = "s390x"

func testBadPulls(t *testing.T, e *containerdtest.Env) {
	files := map[string]string{"/app": filepath.Join(e.Programs, "app")}
	foreign := containerdtest.NewImage(t, other, files, v1.Config{})
	plain, plainDigest := e.Registry.Push(t, "test/foreign:1", foreign)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "linux", Architecture: other}}})
	ref, err := name.ParseReference(e.Registry.Host+"/test/index:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	indexDigest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	zero := "sha256:" + strings.Repeat("0", 64)
	for what, c := range map[string]struct {
		image, digest, says string
		fatal               bool
	}{
		"other architecture":         {plain, plainDigest, "it is built for linux/s390x", true},
		"index without ours":         {e.Registry.Host + "/test/index:1", indexDigest.String(), "offers nothing for linux/", true},
		"no such digest":             {e.Image, zero, "has no " + zero, true},
		"no such repository":         {e.Registry.Host + "/none", zero, "has no " + zero, true},
		"not a reference":            {"Upper/Case Name", zero, "is not a reference", true},
		"not a digest":               {e.Image, "sha256:1", "is not a digest", true},
		"registry that does not run": {"127.0.0.1:1/x", zero, "registry 127.0.0.1:1", false},
	} {
		_, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: c.image, Digest: c.digest}, nil)
		if err == nil || errors.Is(err, runtime.ErrFatal) != c.fatal || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.image) {
			t.Errorf("%s: %v; want an error (fatal %v) with %q and the image", what, err, c.fatal, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", what, err)
		}
	}
	if _, err := e.Runtime.Create(within(t), runtime.Spec{ID: "absent-1", Image: plain, Digest: plainDigest, LogDir: t.TempDir()}); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("create from an image that was not pulled: %v; want ErrNotFound", err)
	}
}

// testTogether: instances that are placed at once want one image at once, which is fetched once.
func testTogether(t *testing.T, e *containerdtest.Env) {
	var mu sync.Mutex
	fetched := map[string]int{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: e.Registry.Host})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			mu.Lock()
			fetched[r.URL.Path]++
			mu.Unlock()
		}
		proxy.ServeHTTP(w, r)
	}))
	defer srv.Close()
	img := containerdtest.NewImage(t, "", map[string]string{"/together": filepath.Join(e.Programs, "app")}, v1.Config{Entrypoint: []string{"/together"}})
	ref, digest := e.Registry.Push(t, "test/together:1", img)
	req := runtime.PullRequest{Image: strings.Replace(ref, e.Registry.Host, strings.TrimPrefix(srv.URL, "http://"), 1), Digest: digest}
	ctx := within(t)
	var pulls sync.WaitGroup
	for range 10 {
		pulls.Go(func() {
			got, err := e.Runtime.Pull(ctx, req, func(runtime.Progress) {})
			if err != nil || got.Digest != digest {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	pulls.Wait()
	if len(fetched) != 2 { // configuration and layer
		t.Errorf("fetched %v", fetched)
	}
	for blob, n := range fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", blob, n)
		}
	}
}

// testCredentials puts a registry that asks for a password before the other one.
func testCredentials(t *testing.T, e *containerdtest.Env) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, ok := r.BasicAuth(); !ok || user != "drover" || secret != "right" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		u := url.URL{Scheme: "http", Host: e.Registry.Host, Path: r.URL.Path}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, u.String(), nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Accept", strings.Join(r.Header.Values("Accept"), ","))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for key, values := range resp.Header {
			w.Header()[key] = values
		}
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	req := runtime.PullRequest{Image: host + "/" + strings.SplitN(e.Image, "/", 2)[1], Digest: e.Digest}
	for _, secret := range []string{"", "d3Jvbmc=", "right"} { // what the last one fetches, others could take from the cache
		fatal := secret != "right"
		cfg := e.Config
		cfg.Registry = credentials{registry.New(registry.Config{}), secret}
		rt, err := containerd.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = rt.Pull(within(t), req, nil)
		if fatal && (!errors.Is(err, runtime.ErrFatal) || !strings.Contains(err.Error(), "refuses access")) {
			t.Errorf("password %q: %v; want it refused for good", secret, err)
		}
		if !fatal && err != nil {
			t.Errorf("password %q: %v", secret, err)
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	}
}

type credentials struct {
	*registry.Registry
	secret string
}

func (c credentials) Credentials(string) (string, string, error) {
	if c.secret == "" {
		return "", "", nil
	}
	return "drover", c.secret, nil
}

func testCollect(t *testing.T, e *containerdtest.Env) {
	used := spec(t, e)
	started(t, e, used)
	img := containerdtest.NewImage(t, "", map[string]string{"/idle": filepath.Join(e.Programs, "app")}, v1.Config{Entrypoint: []string{"/idle"}})
	ref, digest := e.Registry.Push(t, "test/idle:1", img)
	var progress []runtime.Progress
	if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: ref, Digest: digest}, func(p runtime.Progress) { progress = append(progress, p) }); err != nil {
		t.Fatal(err)
	}
	if removed, err := e.Runtime.CollectImages(within(t), 1.1, 0, func(string) bool { return false }); err != nil || len(removed) != 0 {
		t.Fatalf("below the watermark: %v, %v; want nothing", removed, err)
	}
	removed, err := e.Runtime.CollectImages(within(t), 0, 0, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, r := range removed {
		found = found || r.Digest == digest && r.Bytes > 0
		if r.Digest == e.Digest {
			t.Error("an image that a container uses was removed")
		}
	}
	if !found {
		t.Errorf("removed %v; want %s", removed, digest)
	}
	s := spec(t, e)
	s.Image, s.Digest = ref, digest
	if _, err := e.Runtime.Create(within(t), s); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("create from a removed image: %v; want ErrNotFound", err)
	}
	if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: ref, Digest: digest}, nil); err != nil {
		t.Errorf("pull of a removed image: %v", err)
	}
}

func testBadCommand(t *testing.T, e *containerdtest.Env) {
	if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: e.Image, Digest: e.Digest}, nil); err != nil {
		t.Fatal(err)
	}
	s := spec(t, e)
	s.Command = []string{"/no/such/program"}
	_, err := e.Runtime.Create(within(t), s)
	if err == nil {
		_, err = e.Runtime.Start(within(t), s.ID)
	}
	if !errors.Is(err, runtime.ErrFatal) {
		t.Errorf("a command that the image lacks: %v; want ErrFatal", err)
	}
}
