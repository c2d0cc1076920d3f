package containerdtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const module = "github.com/drover-fleet/drover/"

// Programs builds the image's programs and the logger, static, and answers the directory that holds
// "app", "server" and "logger".
func Programs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", module+"runtime/containerd/containerdtest/app",
		module+"runtime/containerd/containerdtest/logger", module+"runtime/runtimetest/server")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build test programs: %v\n%s", err, out)
	}
	return dir
}

// NewImage makes an image of files (path in the image → path here) for an architecture, empty meaning this one's.
func NewImage(t testing.TB, arch string, files map[string]string, config v1.Config) v1.Image {
	t.Helper()
	if arch == "" {
		arch = goruntime.GOARCH
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, source := range files {
		raw, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(raw)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, must(t, img.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	file := must(t, img.ConfigFile).DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

func must[T any](t testing.TB, fn func() (T, error)) T {
	t.Helper()
	v, err := fn()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Registry serves images on 127.0.0.1 until the test ends.
type Registry struct{ Host string }

// NewRegistry starts one.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return &Registry{Host: strings.TrimPrefix(srv.URL, "http://")}
}

// Push puts an image there and answers its reference and digest.
func (r *Registry) Push(t testing.TB, repository string, img v1.Image) (image, digest string) {
	t.Helper()
	image = r.Host + "/" + repository
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return image, must(t, img.Digest).String()
}

// Delete makes the registry forget an image's manifest.
func (r *Registry) Delete(t testing.TB, image string) {
	t.Helper()
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	desc := must(t, func() (*remote.Descriptor, error) { return remote.Get(ref) })
	for _, gone := range []name.Reference{ref.Context().Digest(desc.Digest.String()), ref} {
		if err := remote.Delete(gone); err != nil {
			t.Fatal(err)
		}
	}
}

// PushApp builds and pushes the image with /app, which it runs by default, and /server.
func (r *Registry) PushApp(t testing.TB, programs string) (image, digest string) {
	t.Helper()
	img := NewImage(t, "", map[string]string{
		"/app": filepath.Join(programs, "app"), "/server": filepath.Join(programs, "server"),
	}, v1.Config{Entrypoint: []string{"/app"}, Env: []string{"FROM=image"}})
	return r.Push(t, fmt.Sprintf("test/app:%s", goruntime.GOARCH), img)
}
