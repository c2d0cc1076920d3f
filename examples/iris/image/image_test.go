package image_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/drover-fleet/drover/examples/iris/image"
)

func TestImageGoesThroughTheRegistry(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "server")
	if err := os.WriteFile(binary, []byte("#!not really a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := image.Build(binary)
	if err != nil {
		t.Fatal(err)
	}
	again, err := image.Build(binary)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Digest(); err != nil || got != want {
		t.Errorf("the same binary gives %v and %v", want, got)
	}
	reg, err := image.Serve(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := reg.Push(t.Context(), img, "iris:1.0")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(parsed, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != want {
		t.Errorf("pulled %v, %v", got, err)
	}
	config, err := pulled.ConfigFile()
	if err != nil || config.Config.Entrypoint[0] != "/server" || config.OS != "linux" {
		t.Errorf("config %+v, %v", config, err)
	}
	if _, err := image.Serve(t.Context(), reg.Addr()); err == nil {
		t.Error("two registries on one address")
	}
	if err := reg.Close(); err != nil {
		t.Error(err)
	}
	if resp, err := http.Get("http://" + reg.Addr() + "/v2/"); err == nil {
		resp.Body.Close()
		t.Error("a closed registry answers")
	}
}

func TestRefusals(t *testing.T) {
	if _, err := image.Build(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("an image of a missing binary")
	}
	if _, err := image.Root(t.TempDir()); err == nil {
		t.Error("a module in an empty directory")
	}
	if root, err := image.Root("."); err != nil {
		t.Error(err)
	} else if _, err := os.Stat(filepath.Join(root, "proto")); err != nil {
		t.Error(err)
	}
}
