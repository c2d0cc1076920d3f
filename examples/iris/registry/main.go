// Command registry builds the iris example's image and serves it at 127.0.0.1:5000/iris:1.0, where the example's
// manifests expect it, until it is interrupted. It stands for the registry that a fleet has anyway.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/drover-fleet/drover/examples/iris/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) (err error) {
	root, err := image.Root(".")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "drover-registry-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := filepath.Join(dir, "server")
	if err := image.Compile(ctx, root, binary); err != nil {
		return err
	}
	img, err := image.Build(binary)
	if err != nil {
		return err
	}
	registry, err := image.Serve(ctx, "127.0.0.1:5000")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	ref, err := registry.Push(ctx, img, "iris:1.0")
	if err != nil {
		return err
	}
	fmt.Println("serving", ref)
	<-ctx.Done()
	return nil
}
