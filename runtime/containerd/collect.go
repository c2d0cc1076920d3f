package containerd

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime"
)

// stored is every record of one digest; they go together, or nothing is freed.
type stored struct {
	digest string
	names  []string
	used   time.Time
}

// CollectImages removes images and waits for containerd's garbage collection after each, so that the disk's use is true.
func (r *Runtime) CollectImages(ctx context.Context, high, low float64, keep func(digest string) bool) ([]runtime.Image, error) {
	ctx = r.namespaced(ctx)
	const op = "collect images"
	root, err := r.imageRoot(ctx)
	if err != nil {
		return nil, failed(op, err)
	}
	use, err := diskUse(root)
	if err != nil || use < high {
		return nil, failed(op, err)
	}
	candidates, err := r.unused(ctx, keep)
	if err != nil {
		return nil, failed(op, err)
	}
	var removed []runtime.Image
	for _, c := range candidates {
		if use, err = diskUse(root); err != nil || use <= low {
			return removed, failed(op, err)
		}
		size, err := r.removeImage(ctx, c)
		if err != nil {
			return removed, failed(op, err)
		}
		removed = append(removed, runtime.Image{Digest: c.digest, Bytes: size})
	}
	return removed, nil
}

// Images answers the records of images; their sizes aren't looked up.
func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	all, err := r.stored(r.namespaced(ctx))
	if err != nil {
		return nil, failed("list images", err)
	}
	list := make([]runtime.Image, len(all))
	for i, s := range all {
		list[len(all)-1-i] = runtime.Image{Digest: s.digest}
	}
	return list, nil
}

// stored answers all images, least recently used first.
func (r *Runtime) stored(ctx context.Context) ([]stored, error) {
	all, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	byDigest := map[string]*stored{}
	for _, img := range all {
		digest := img.Target.Digest.String()
		s := byDigest[digest]
		if s == nil {
			s = &stored{digest: digest}
			byDigest[digest] = s
		}
		s.names = append(s.names, img.Name)
		if at := r.lastUsed(img); at.After(s.used) {
			s.used = at
		}
	}
	var list []stored
	for _, s := range byDigest {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b stored) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(b.digest, a.digest)) })
	return list, nil
}

// unused answers images that no container uses and keep refuses, least recently used first.
func (r *Runtime) unused(ctx context.Context, keep func(string) bool) ([]stored, error) {
	all, err := r.stored(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, c := range cs {
		used[c.Image] = true
	}
	return slices.DeleteFunc(all, func(s stored) bool {
		return keep(s.digest) || slices.ContainsFunc(s.names, func(name string) bool { return used[name] })
	}), nil
}

func (r *Runtime) lastUsed(img images.Image) time.Time {
	r.images.mu.Lock()
	defer r.images.mu.Unlock()
	if known := r.images.all[img.Name]; known != nil {
		return known.used
	}
	if at, err := time.Parse(time.RFC3339, img.Labels[labelUsed]); err == nil {
		return at
	}
	return img.CreatedAt
}

func (r *Runtime) removeImage(ctx context.Context, s stored) (int64, error) {
	var size int64
	if img, err := r.client.GetImage(ctx, s.names[0]); err == nil {
		if known, err := r.describe(ctx, img); err == nil {
			size = known.bytes
		}
	}
	for i, name := range s.names {
		r.images.drop(name)
		var opts []images.DeleteOpt
		if i == len(s.names)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := r.client.ImageService().Delete(ctx, name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return size, fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	return size, nil
}

// imageRoot asks containerd where the files of images are.
func (r *Runtime) imageRoot(ctx context.Context) (string, error) {
	resp, err := r.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	if err != nil {
		return "", err
	}
	for _, p := range resp.Plugins {
		if root := p.Exports["root"]; filepath.IsAbs(root) {
			return root, nil
		}
	}
	return "", fmt.Errorf("containerd has no snapshotter %q that says where its files are", snapshotter)
}

// diskUse answers the fraction of a file system that is in use, as df does.
func diskUse(path string) (float64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("measure disk use of %s: %w", path, err)
	}
	used := st.Blocks - st.Bfree
	if used+st.Bavail == 0 {
		return 0, nil
	}
	return float64(used) / float64(used+st.Bavail), nil
}
