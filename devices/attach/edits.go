package attach

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"
)

const libraryPath = "LD_LIBRARY_PATH"

// ownership says which nodes belong to a single device of a vendor, and which of those may be given.
type ownership struct {
	pattern *regexp.Regexp
	given   []string
	doubt   error  // why given may lack some
	renew   string // how to make a stale file anew
}

func hostPath(n *cdispecs.DeviceNode) string { return cmp.Or(n.HostPath, n.Path) }

// assemble puts together what devices and their files ask for, each file once, after comparing it with the
// host.
func (a *Attacher) assemble(list []*cdi.Device, own ownership) (*cdi.ContainerEdits, error) {
	out := &cdi.ContainerEdits{}
	var seen []*cdi.Spec
	add := func(from *cdi.Spec, e cdispecs.ContainerEdits) error {
		e, err := a.check(e, own)
		if err != nil {
			hint := ""
			if own.renew != "" {
				hint = "; if the file is out of date, " + own.renew
			}
			return fmt.Errorf("CDI specification %s: %w%s", from.GetPath(), err, hint)
		}
		out.Append(&cdi.ContainerEdits{ContainerEdits: &e})
		return nil
	}
	for _, d := range list {
		if spec := d.GetSpec(); !slices.Contains(seen, spec) {
			seen = append(seen, spec)
			if err := add(spec, spec.ContainerEdits); err != nil {
				return nil, err
			}
		}
		if err := add(d.GetSpec(), d.ContainerEdits); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// check compares edits with the host and answers them with nodes that say everything: those of the
// library stay as the file has them.
func (a *Attacher) check(e cdispecs.ContainerEdits, own ownership) (cdispecs.ContainerEdits, error) {
	nodes := e.DeviceNodes
	e.DeviceNodes = nil
	for _, n := range nodes {
		if node := a.inRoot(hostPath(n), own); node != "" && !slices.Contains(own.given, node) {
			if own.doubt != nil && strings.HasPrefix(node, "/dev/nvidia-caps/") {
				return e, fmt.Errorf("it gives %s, and it isn't known whose that is: %w", node, own.doubt)
			}
			return e, fmt.Errorf("it gives %s, which belongs to another device", node)
		}
		full, err := stated(*n)
		if err != nil {
			return e, err
		}
		e.DeviceNodes = append(e.DeviceNodes, full)
	}
	for _, m := range e.Mounts {
		if (m.Type == "" || m.Type == "bind") && filepath.IsAbs(m.HostPath) {
			if _, err := os.Stat(m.HostPath); err != nil {
				return e, fmt.Errorf("it mounts %s: %w", m.HostPath, missing(err))
			}
		}
	}
	for _, h := range e.Hooks {
		if _, err := os.Stat(h.Path); err != nil {
			return e, fmt.Errorf("it runs %s: %w", h.Path, missing(err))
		}
	}
	return e, nil
}

// stated answers the node with type and number as the host has them, which must be those that it names.
func stated(n cdispecs.DeviceNode) (*cdispecs.DeviceNode, error) {
	path := hostPath(&n)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, fmt.Errorf("it names %s: %w", path, missing(err))
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b", unix.S_IFIFO: "p"}[st.Mode&unix.S_IFMT]
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	switch {
	case kind == "":
		return nil, fmt.Errorf("it names %s, which is not a device node", path)
	case n.Type != "" && n.Type != kind && !(n.Type == "u" && kind == "c"):
		return nil, fmt.Errorf("it says that %s has type %q, but it is %q", path, n.Type, kind)
	case kind != "p" && (n.Major != 0 || n.Minor != 0) && (n.Major != major || n.Minor != minor):
		return nil, fmt.Errorf("it says that %s is %d:%d, but it is %d:%d", path, n.Major, n.Minor, major, minor)
	}
	n.HostPath, n.Type = path, kind
	if kind != "p" {
		n.Major, n.Minor = major, minor
	}
	return &n, nil
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("that doesn't exist")
	}
	return err
}

// apply changes the specification; library directories of the edits go before those that it has.
func apply(e *cdi.ContainerEdits, spec *specs.Spec) error {
	if e.ContainerEdits == nil {
		return nil
	}
	var dirs, env []string
	for _, entry := range e.Env {
		if value, ok := strings.CutPrefix(entry, libraryPath+"="); ok {
			dirs = append(dirs, value)
		} else {
			env = append(env, entry)
		}
	}
	if len(dirs) > 0 && spec.Process != nil {
		for _, entry := range spec.Process.Env {
			if value, ok := strings.CutPrefix(entry, libraryPath+"="); ok {
				dirs = append(dirs, value)
			}
		}
		env = append(env, libraryPath+"="+merged(dirs))
	}
	e.Env = env
	return e.Apply(spec)
}

// merged answers search paths as one, each directory once.
func merged(paths []string) string {
	var out []string
	for _, path := range paths {
		for dir := range strings.SplitSeq(path, ":") {
			if dir != "" && !slices.Contains(out, dir) {
				out = append(out, dir)
			}
		}
	}
	return strings.Join(out, ":")
}
