package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/drover-fleet/drover/runtime"
)

const (
	progressInterval = 200 * time.Millisecond
	labelUsed        = "drover.image.used" // RFC 3339; when an image was last asked for, to the hour
	usedPrecision    = time.Hour
)

// image is what Create needs of a present image.
type image struct {
	name    string // of containerd's record: repository@digest
	digest  string
	chainID string // of the snapshot that holds its files
	bytes   int64
	config  ocispec.ImageConfig
	used    time.Time
}

// imageCache remembers images that were seen present.
type imageCache struct {
	mu  sync.Mutex
	all map[string]*image // by name
}

func newImageCache() *imageCache { return &imageCache{all: map[string]*image{}} }

func (c *imageCache) get(name string) *image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[name]
}

func (c *imageCache) put(img *image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[img.name] = img
}

func (c *imageCache) drop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, name)
}

// imageName answers "repository@digest": an image is kept apart for each repository that it came from.
func imageName(ref, digest string) (name, host string, err error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", "", fmt.Errorf("%w: image %q is not a reference: %w", runtime.ErrFatal, ref, err)
	}
	name = reference.TrimNamed(named).Name() + "@" + digest
	if _, err := reference.Parse(name); err != nil || digest == "" {
		return "", "", fmt.Errorf("%w: digest %q of image %q is not a digest", runtime.ErrFatal, digest, ref)
	}
	return name, reference.Domain(named), nil
}

// Pull fetches and unpacks the image unless it is there.
func (r *Runtime) Pull(ctx context.Context, req runtime.PullRequest, progress func(runtime.Progress)) (runtime.Image, error) {
	ctx = log.WithLogger(r.namespaced(ctx), quiet())
	op := fmt.Sprintf("pull image %q", req.Image)
	if err := ctx.Err(); err != nil {
		return runtime.Image{}, failed(op, err)
	}
	arch := req.Arch
	if arch == "" {
		arch = r.arch
	}
	img, err := r.present(ctx, req.Image, req.Digest)
	if errors.Is(err, runtime.ErrNotFound) {
		img, err = r.fetchOnce(ctx, req, arch, progress)
	}
	if err != nil {
		return runtime.Image{}, failed(op, err)
	}
	r.touch(ctx, img)
	return runtime.Image{Digest: img.digest, Bytes: img.bytes}, nil
}

// fetchOnce fetches the image unless another caller does so meanwhile.
func (r *Runtime) fetchOnce(ctx context.Context, req runtime.PullRequest, arch string, progress func(runtime.Progress)) (*image, error) {
	name, _, err := imageName(req.Image, req.Digest)
	if err != nil {
		return nil, err
	}
	tell, leave, err := r.pulls.join(ctx, name, progress)
	if err != nil {
		return nil, err
	}
	defer leave()
	img, err := r.present(ctx, req.Image, req.Digest)
	if errors.Is(err, runtime.ErrNotFound) {
		return r.fetch(ctx, req, arch, tell)
	}
	return img, err
}

// present finds an image that is there and unpacked; ErrNotFound otherwise.
func (r *Runtime) present(ctx context.Context, ref, digest string) (*image, error) {
	name, _, err := imageName(ref, digest)
	if err != nil {
		return nil, err
	}
	if img := r.images.get(name); img != nil {
		return img, nil
	}
	img, err := r.client.GetImage(ctx, name)
	if err != nil {
		return nil, failed("image", err)
	}
	known, err := r.describe(ctx, img)
	if err != nil {
		return nil, failed("image", err)
	}
	if _, err := r.client.SnapshotService(snapshotter).Stat(ctx, known.chainID); err != nil {
		return nil, failed("files of the image", err)
	}
	r.images.put(known)
	return known, nil
}

// describe reads an image's configuration and size from the content store.
func (r *Runtime) describe(ctx context.Context, img client.Image) (*image, error) {
	spec, err := img.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("read image configuration: %w", err)
	}
	if spec.OS != "linux" || spec.Architecture != r.arch {
		return nil, fmt.Errorf("%w: it is built for %s/%s, this node is linux/%s", runtime.ErrFatal, spec.OS, spec.Architecture, r.arch)
	}
	size, err := img.Usage(ctx, client.WithUsageManifestLimit(1), client.WithManifestUsage())
	if err != nil {
		return nil, fmt.Errorf("read image size: %w", err)
	}
	used, err := time.Parse(time.RFC3339, img.Labels()[labelUsed])
	if err != nil {
		used = img.Metadata().CreatedAt
	}
	return &image{
		name: img.Name(), digest: img.Target().Digest.String(), bytes: size, config: spec.Config,
		chainID: identity.ChainID(spec.RootFS.DiffIDs).String(), used: used,
	}, nil
}

// touch notes that an image was used, at most once an hour.
func (r *Runtime) touch(ctx context.Context, img *image) {
	now := time.Now()
	r.images.mu.Lock()
	fresh := now.Sub(img.used) < usedPrecision
	img.used = now
	r.images.mu.Unlock()
	if fresh {
		return
	}
	meta, err := r.client.ImageService().Get(ctx, img.name)
	if err == nil {
		if meta.Labels == nil {
			meta.Labels = map[string]string{}
		}
		meta.Labels[labelUsed] = now.UTC().Format(time.RFC3339)
		_, err = r.client.ImageService().Update(ctx, meta, "labels."+labelUsed)
	}
	if err != nil {
		r.cfg.Logger.Warn("an image's use was not noted: it may be collected early", "image", img.name, "error", err)
	}
}

func (r *Runtime) fetch(ctx context.Context, req runtime.PullRequest, arch string, progress func(runtime.Progress)) (*image, error) {
	name, host, err := imageName(req.Image, req.Digest)
	if err != nil {
		return nil, err
	}
	if arch != r.arch {
		return nil, fmt.Errorf("%w: it is wanted for %s, this node is %s", runtime.ErrFatal, arch, r.arch)
	}
	if req.Allowed != nil {
		if err := req.Allowed(); err != nil {
			return nil, err
		}
	}
	track := newTracker(r.client.ContentStore())
	stop := track.report(ctx, progress)
	defer stop()
	now := time.Now().UTC().Format(time.RFC3339)
	img, err := r.client.Pull(ctx, name,
		client.WithResolver(r.resolver()),
		client.WithPlatformMatcher(platforms.OnlyStrict(platforms.Platform{OS: "linux", Architecture: arch, Variant: platforms.DefaultSpec().Variant})),
		client.WithPullUnpack, client.WithPullSnapshotter(snapshotter),
		client.WithPullLabels(map[string]string{labelUsed: now}),
		client.WithImageHandlerWrapper(track.wrap),
	)
	if err != nil {
		return nil, r.explain(ctx, req, host, err)
	}
	known, err := r.describe(ctx, img)
	if err != nil { // of another architecture: an image without an index says so in its configuration alone
		clean, cancel := r.call(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return nil, errors.Join(err, r.client.ImageService().Delete(clean, name))
	}
	r.images.put(known)
	return known, nil
}

// quiet keeps containerd's client from writing to our standard error what it returns as an error anyway.
func quiet() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

func (r *Runtime) resolver() remotes.Resolver {
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthCreds(r.cfg.Registry.Credentials))
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithAuthorizer(authorizer),
		docker.WithPlainHTTP(func(host string) (bool, error) { return r.cfg.Registry.PlainHTTP(host), nil }),
	)})
}

// explain says what a failed pull means for the image, on one line.
func (r *Runtime) explain(ctx context.Context, req runtime.PullRequest, host string, err error) error {
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	var answer remoteerrors.ErrUnexpectedStatus
	code := 0
	if errors.As(err, &answer) {
		code = answer.StatusCode
	}
	switch {
	case strings.Contains(err.Error(), "no match for platform"):
		return fmt.Errorf("%w: it offers nothing for linux/%s, which this node is", runtime.ErrFatal, r.arch)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, errors.Is(err, docker.ErrInvalidAuthorization):
		return fmt.Errorf("%w: registry %s refuses access: check the credentials that this node has for it: %w", runtime.ErrFatal, host, err)
	case code == http.StatusNotFound, errdefs.IsNotFound(err):
		return fmt.Errorf("%w: registry %s has no %s of it", runtime.ErrFatal, host, req.Digest)
	}
	return fmt.Errorf("registry %s: %w", host, err)
}

// tracker learns from the handlers of a pull what is to be fetched, and from the content store how much of it is there.
type tracker struct {
	store content.Store

	mu    sync.Mutex
	parts map[string]ocispec.Descriptor // by digest
	done  map[string]bool
	total int64
}

func newTracker(store content.Store) *tracker {
	return &tracker{store: store, parts: map[string]ocispec.Descriptor{}, done: map[string]bool{}}
}

func (t *tracker) wrap(next images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := next.Handle(ctx, desc)
		if images.IsManifestType(desc.MediaType) {
			t.mu.Lock()
			for _, child := range children {
				if _, known := t.parts[child.Digest.String()]; !known {
					t.parts[child.Digest.String()] = child
					t.total += child.Size
				}
			}
			t.mu.Unlock()
		}
		return children, err
	})
}

// report calls progress from one goroutine, at once and then with each change, until stop.
func (t *tracker) report(ctx context.Context, progress func(runtime.Progress)) (stop func()) {
	if progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var last runtime.Progress
		progress(last)
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			now := t.measure(ctx)
			now.DoneBytes = max(now.DoneBytes, last.DoneBytes)
			if now != last {
				progress(now)
				last = now
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (t *tracker) measure(ctx context.Context) runtime.Progress {
	statuses, err := t.store.ListStatuses(ctx)
	if err != nil {
		return runtime.Progress{} // the pull itself reports what is wrong
	}
	t.mu.Lock()
	parts := make([]ocispec.Descriptor, 0, len(t.parts))
	for _, part := range t.parts {
		parts = append(parts, part)
	}
	p := runtime.Progress{TotalBytes: t.total}
	t.mu.Unlock()
	for _, part := range parts {
		key := part.Digest.String()
		i := slices.IndexFunc(statuses, func(s content.Status) bool { return strings.HasSuffix(s.Ref, key) })
		switch {
		case t.done[key]: // read and written by the reporting goroutine alone
			p.DoneBytes += part.Size
		case i >= 0:
			p.DoneBytes += statuses[i].Offset
		default:
			if _, err := t.store.Info(ctx, part.Digest); err == nil {
				t.done[key] = true
				p.DoneBytes += part.Size
			}
		}
	}
	return p
}
