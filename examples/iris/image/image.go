// Package image makes the container image of the iris example and serves it from a registry in this process.
//
// The image is one layer with one static binary, so that nothing has to be downloaded to build it.
// go-containerregistry writes the image and is the registry: an image format and a registry protocol are
// not this example's business.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Server is the package of the example's server.
const Server = "github.com/drover-fleet/drover/examples/iris/server"

// Compile builds the server as a static binary of this machine's architecture; dir is within the module.
func Compile(ctx context.Context, dir, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, Server)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the iris server: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Build makes the image of a server's binary.
func Build(binary string) (v1.Image, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "server", Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0)}); err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", goruntime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{"/server"}, User: "65532:65532", ExposedPorts: map[string]struct{}{"8080/tcp": {}}}
	img, err = mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	return img, nil
}

// Registry serves images until it is closed.
type Registry struct {
	l    net.Listener
	srv  *http.Server
	done chan error
}

// Serve starts a registry on a loopback address.
func Serve(ctx context.Context, addr string) (*Registry, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start the registry: %w", err)
	}
	r := &Registry{
		l:    l,
		srv:  &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: 10 * time.Second},
		done: make(chan error, 1),
	}
	go func() { r.done <- r.srv.Serve(l) }()
	return r, nil
}

// Addr is where the registry listens.
func (r *Registry) Addr() string { return r.l.Addr().String() }

// Push puts an image under "repository:tag" and answers its reference.
func (r *Registry) Push(ctx context.Context, img v1.Image, repository string) (string, error) {
	ref, err := name.ParseReference(r.Addr()+"/"+repository, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("push the image: %w", err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push the image: %w", err)
	}
	return ref.String(), nil
}

// Close stops the registry.
func (r *Registry) Close() error {
	if err := r.srv.Close(); err != nil {
		return fmt.Errorf("stop the registry: %w", err)
	}
	if err := <-r.done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the registry: %w", err)
	}
	return nil
}

// Root answers the directory of the module that dir is in.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the module: no go.mod here or above: run this in a checkout of drover")
		}
		dir = parent
	}
}
