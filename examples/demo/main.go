package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/drover-fleet/drover/examples/iris/image"
)

func main() { os.Exit(run()) }

func run() int {
	binary := flag.String("drover", "bin/drover", "the drover `binary`")
	dir := flag.String("data-dir", "", "keep everything in this new `directory`; a temporary one by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d, err := newDemo(*binary, *dir)
	if err == nil {
		err = errors.Join(d.show(ctx), d.remove())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

// demo is one run.
type demo struct {
	root     string // of the checkout
	dir      string // of everything that is made
	binary   string
	shown    string // how the user named the binary
	terminal bool
	env      []string
	registry *image.Registry
	dev      *devProcess
	context  devContext
}

func newDemo(binary, dir string) (*demo, error) {
	shown := binary
	root, err := image.Root(".")
	if err != nil {
		return nil, err
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("%w; build it with `make build`", err)
	}
	if dir == "" {
		dir, err = os.MkdirTemp("", "drover-demo-")
	} else if dir, err = filepath.Abs(dir); err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("make the demo's directory: %w", err)
	}
	d := &demo{root: root, dir: dir, binary: binary, shown: shown, env: os.Environ(), terminal: term.IsTerminal(int(os.Stdout.Fd()))}
	if !d.terminal {
		// Nobody works beside it: the user's own context stays as it is.
		d.env = append(d.env, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	}
	return d, nil
}

// show does everything up to the end of the demonstration; on a terminal it waits for Ctrl-C.
func (d *demo) show(ctx context.Context) error {
	manifests, err := d.serveImage(ctx)
	if err != nil {
		return err
	}
	if err := d.startDev(ctx); err != nil {
		return err
	}
	if err := d.drover(ctx, "apply", "-f", manifests, "--wait", "--wait-timeout", "5m"); err != nil {
		return err
	}
	if err := d.drover(ctx, "service", "endpoints", "iris"); err != nil {
		return err
	}
	if err := d.predict(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"service", "show", "iris"}, {"node", "show", "dev-1"}, {"device", "list"}, {"event", "list", "--tail", "20"},
	} {
		if err := d.drover(ctx, args...); err != nil {
			return err
		}
	}
	if err := d.metrics(ctx); err != nil {
		return err
	}
	if d.terminal {
		d.printf("\nEverything stays up: try `%s service list` in another terminal. Ctrl-C removes it.\n", d.shown)
		select {
		case <-ctx.Done():
		case <-d.dev.done:
			return fmt.Errorf("drover dev ended by itself: %w; its log: %s", d.dev.err, d.keepLog())
		}
	}
	return nil
}

// printf shows something; output that can't be written is no reason to stop halfway.
func (d *demo) printf(format string, args ...any) { fmt.Fprintf(os.Stdout, format, args...) }

// registryAddr is where the example's manifests expect the registry.
const registryAddr = "127.0.0.1:5000"

// serveImage builds the image, serves it, and answers the directory of manifests that fit the registry's port.
func (d *demo) serveImage(ctx context.Context) (manifests string, err error) {
	d.printf("building the iris server's image\n")
	server := filepath.Join(d.dir, "server")
	if err := image.Compile(ctx, d.root, server); err != nil {
		return "", err
	}
	img, err := image.Build(server)
	if err != nil {
		return "", err
	}
	manifests = filepath.Join("examples", "iris") + string(filepath.Separator)
	if d.registry, err = image.Serve(ctx, registryAddr); err != nil {
		if !errors.Is(err, syscall.EADDRINUSE) {
			return "", err
		}
		if d.registry, err = image.Serve(ctx, "127.0.0.1:0"); err != nil {
			return "", err
		}
		d.printf("%s is taken: the registry is at %s, and so say copies of the manifests\n", registryAddr, d.registry.Addr())
		if manifests, err = d.copyManifests(); err != nil {
			return "", err
		}
	}
	ref, err := d.registry.Push(ctx, img, "iris:1.0")
	if err != nil {
		return "", err
	}
	d.printf("serving it as %s\n", ref)
	return manifests, nil
}

// removeLimit bounds the removal of everything.
const removeLimit = 3 * time.Minute

// remove takes everything away, whatever was made of it.
func (d *demo) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
	defer cancel()
	var errs []error
	if d.dev != nil {
		errs = append(errs, d.stopDev(ctx))
	}
	if d.registry != nil {
		errs = append(errs, d.registry.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the demo: %w; what is left is in %s", err, d.dir)
	}
	return os.RemoveAll(d.dir)
}
