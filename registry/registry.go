package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// resolveTimeout bounds one Resolve, token exchange included.
const resolveTimeout = 15 * time.Second

// Config says how registries are reached.
type Config struct {
	// PlainHTTP lists the hosts ("host" or "host:port") that are spoken to without TLS. Loopback hosts
	// are plain without being listed.
	PlainHTTP []string `yaml:"plain_http"`
	// DockerConfig is the path of a Docker config.json with credentials; empty means none.
	DockerConfig string `yaml:"docker_config"`
}

// Registry resolves references. It is safe for concurrent use and holds no connections between calls
// but idle ones.
type Registry struct {
	cfg       Config
	transport http.RoundTripper
	timeout   time.Duration
}

// Image is what a reference points to.
type Image struct {
	// Digest of the index or manifest, "sha256:…".
	Digest string
	// Arches are the instruction sets offered for Linux ("amd64", "arm64"), sorted.
	Arches []string
	// Bytes is the compressed size of a single image; 0 for an index, where it differs per platform.
	Bytes int64
}

// New makes a Registry. It reads nothing yet.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, timeout: resolveTimeout}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = resolveTimeout
	r.transport = oneScheme{plain: r.PlainHTTP, next: base}
	return r
}

// PlainHTTP says whether a host ("host" or "host:port") is spoken to without TLS.
func (r *Registry) PlainHTTP(host string) bool {
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	bare = strings.Trim(bare, "[]")
	if bare == "localhost" || strings.HasSuffix(bare, ".localhost") {
		return true
	}
	if ip := net.ParseIP(bare); ip != nil && ip.IsLoopback() {
		return true
	}
	return slices.Contains(r.cfg.PlainHTTP, host) || slices.Contains(r.cfg.PlainHTTP, bare)
}

// Check says whether an image reference is well formed; the error wraps ErrBadReference.
func Check(image string) error {
	_, err := parse(image)
	return err
}

func parse(image string, opts ...name.Option) (name.Reference, error) {
	ref, err := name.ParseReference(image, opts...)
	if err != nil {
		return nil, &Error{Image: image, Kind: ErrBadReference, Err: err,
			Hint: `write it as "registry/repository:tag" or "registry/repository@sha256:…", in lower case`}
	}
	return ref, nil
}

// Resolve asks the registry what the reference points to now. It takes at most 15 seconds. Errors are
// of type *Error.
func (r *Registry) Resolve(ctx context.Context, image string) (Image, error) {
	ref, err := parse(image)
	if err != nil {
		return Image{}, err
	}
	host := ref.Context().RegistryStr()
	if r.PlainHTTP(host) {
		if ref, err = parse(image, name.Insecure); err != nil {
			return Image{}, err
		}
	}
	user, secret, err := r.Credentials(host)
	if err != nil {
		return Image{}, &Error{Image: image, Host: host, Kind: ErrUnauthorized, Err: err,
			Hint: "mend the Docker config file or the credential helper that it names"}
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(r.transport),
		remote.WithAuth(authenticator(user, secret)), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return Image{}, r.explain(image, host, user != "" || secret != "", err)
	}
	out := Image{Digest: desc.Digest.String()}
	if desc.MediaType.IsIndex() {
		out.Arches, err = indexArches(desc)
	} else {
		out.Arches, out.Bytes, err = imageArch(desc)
	}
	if err != nil {
		return Image{}, r.explain(image, host, user != "" || secret != "", err)
	}
	if len(out.Arches) == 0 {
		return Image{}, &Error{Image: image, Host: host, Kind: ErrNotFound,
			Err:  fmt.Errorf("it holds nothing that runs on Linux"),
			Hint: "build and push it for linux/amd64 or linux/arm64"}
	}
	return out, nil
}

func authenticator(user, secret string) authn.Authenticator {
	switch {
	case user == "" && secret == "":
		return authn.Anonymous
	case user == "":
		return authn.FromConfig(authn.AuthConfig{IdentityToken: secret})
	default:
		return &authn.Basic{Username: user, Password: secret}
	}
}

func indexArches(desc *remote.Descriptor) ([]string, error) {
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var arches []string
	for _, m := range manifest.Manifests {
		if !m.MediaType.IsImage() {
			continue
		}
		arch := ""
		if m.Platform != nil {
			if m.Platform.OS == "linux" {
				arch = m.Platform.Architecture
			}
		} else if img, err := index.Image(m.Digest); err != nil {
			return nil, err
		} else if arch, err = linuxArch(img); err != nil {
			return nil, err
		}
		if arch != "" && !slices.Contains(arches, arch) {
			arches = append(arches, arch)
		}
	}
	slices.Sort(arches)
	return arches, nil
}

func imageArch(desc *remote.Descriptor) (arches []string, bytes int64, err error) {
	if !desc.MediaType.IsImage() {
		return nil, 0, fmt.Errorf("its media type %q is not a container image's", string(desc.MediaType))
	}
	img, err := desc.Image()
	if err != nil {
		return nil, 0, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, 0, err
	}
	bytes = manifest.Config.Size
	for _, l := range manifest.Layers {
		bytes += l.Size
	}
	arch, err := linuxArch(img)
	if err != nil || arch == "" {
		return nil, 0, err
	}
	return []string{arch}, bytes, nil
}

func linuxArch(img v1.Image) (string, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	if cfg.OS != "" && cfg.OS != "linux" {
		return "", nil
	}
	return cfg.Architecture, nil
}

// oneScheme sends every request in the scheme that its host is configured for, whatever the protocol
// library tries first or falls back to.
type oneScheme struct {
	plain func(host string) bool
	next  http.RoundTripper
}

func (t oneScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	scheme := "https"
	if t.plain(req.URL.Host) {
		scheme = "http"
	}
	if req.URL.Scheme != scheme {
		req = req.Clone(req.Context())
		req.URL.Scheme = scheme
	}
	return t.next.RoundTrip(req)
}
