package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/drover-fleet/drover/devices"
)

const (
	nvidiaKind = "nvidia.com/gpu"
	nvidiaFile = "nvidia.json"
	// generateTime bounds one run of nvidia-ctk, which takes about a second for each few GPUs.
	generateTime = 30 * time.Second
	// capabilityFiles say per GPU and MIG instance which node stands for it.
	capabilityFiles = "/proc/driver/nvidia/capabilities"
	// maxMessage of what a failed program said is passed on.
	maxMessage = 500
)

var capabilityMinor = regexp.MustCompile(`(?m)^DeviceFileMinor: ([0-9]{1,7})$`)

// nvidia answers the edits for GPUs and slices.
func (a *Attacher) nvidia(ctx context.Context, list, all []devices.Device) (*cdi.ContainerEdits, error) {
	own := ownership{
		pattern: regexp.MustCompile(`^/dev/(nvidia|nvidia-caps/nvidia-cap)[0-9]+$`),
		renew:   "write it anew with nvidia-ctk cdi generate --output=FILE",
	}
	var targets []target
	for _, d := range list {
		node := nvidiaNode(d, all)
		if node != "" && !slices.Contains(own.given, node) {
			own.given = append(own.given, node)
		}
		if d.ParentID != "" {
			node = "" // shared with the parent's other slices
			nodes, err := a.capabilities(d, all)
			if err != nil {
				own.doubt = err
			}
			own.given = append(own.given, nodes...)
		}
		targets = append(targets, target{id: d.ID, node: node})
	}
	if edits, lacks, err := a.resolve(a.host, nvidiaKind, targets, own); err != nil || lacks == "" {
		return edits, err
	}
	if a.generated { // in this life: drivers and devices may have changed since
		if edits, lacks, err := a.resolve(a.own, nvidiaKind, targets, own); err == nil && lacks == "" {
			return edits, nil
		}
	}
	if err := a.generate(ctx); err != nil {
		return nil, fmt.Errorf("no CDI specification names the NVIDIA device %s (searched %s), and %w", targets[0].id, a.host.searched(), err)
	}
	edits, lacks, err := a.resolve(a.own, nvidiaKind, targets, own)
	if lacks != "" {
		err = fmt.Errorf("neither a CDI specification (searched %s) nor nvidia-ctk names the NVIDIA device %s", a.host.searched(), lacks)
	}
	return edits, err
}

// capabilities answers the nodes with which the driver lets a slice's holder use its GPU instance and its part of that.
// The parent's node alone opens neither.
func (a *Attacher) capabilities(d devices.Device, all []devices.Device) ([]string, error) {
	parent := slices.IndexFunc(all, func(p devices.Device) bool { return p.ID == d.ParentID })
	if parent < 0 || all[parent].Minor == nil || d.GPUInstance == nil || d.ComputeInstance == nil {
		return nil, fmt.Errorf("the driver doesn't tell the instances of slice %s", d.ID)
	}
	instance := filepath.Join(a.cfg.Root, capabilityFiles, fmt.Sprintf("gpu%d/mig/gi%d", *all[parent].Minor, *d.GPUInstance))
	var nodes []string
	for _, path := range []string{filepath.Join(instance, "access"), filepath.Join(instance, fmt.Sprintf("ci%d/access", *d.ComputeInstance))} {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("slice %s: %w", d.ID, err)
		}
		minor := capabilityMinor.FindSubmatch(raw)
		if minor == nil {
			return nil, fmt.Errorf("slice %s: %s names no node", d.ID, path)
		}
		nodes = append(nodes, "/dev/nvidia-caps/nvidia-cap"+string(minor[1]))
	}
	return nodes, nil
}

// nvidiaNode answers the node of a GPU, of a slice that of its parent; empty when the driver didn't say.
func nvidiaNode(d devices.Device, all []devices.Device) string {
	minor := d.Minor
	if d.ParentID != "" {
		for _, p := range all {
			if p.ID == d.ParentID && p.Minor != nil {
				minor = p.Minor
			}
		}
	}
	if minor == nil {
		return ""
	}
	return fmt.Sprintf("/dev/nvidia%d", *minor)
}

// generate lets nvidia-ctk write our own specification.
func (a *Attacher) generate(ctx context.Context) error {
	program, err := exec.LookPath(a.cfg.NvidiaCTK)
	if err != nil {
		return errors.New("nvidia-ctk is not installed: install NVIDIA's container toolkit (package nvidia-container-toolkit), which writes one")
	}
	out, err := a.output(ctx, program, "cdi", "generate", "--format=json", "--device-name-strategy=uuid")
	if err != nil {
		return fmt.Errorf("nvidia-ctk can't make one: %w", err)
	}
	spec, err := cdi.ParseSpec(out)
	if err == nil && spec == nil {
		err = errors.New("it is empty")
	}
	if err != nil {
		return fmt.Errorf("what nvidia-ctk made can't be used: %s", oneLine(err))
	}
	if err := a.write(nvidiaFile, spec); err != nil {
		return err
	}
	a.generated = true
	a.cfg.Logger.Info("nvidia-ctk generated a CDI specification", "devices", len(spec.Devices))
	return nil
}

// output runs a program that may hang in the kernel: it is never waited for beyond its time.
func (a *Attacher) output(ctx context.Context, program string, args ...string) ([]byte, error) {
	if a.stuck != nil {
		select {
		case <-a.stuck:
			a.stuck = nil
		default:
			return nil, errors.New("one that was started before hangs and can't be killed")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, generateTime)
	defer cancel()
	var stdout, stderr bytes.Buffer // the goroutine's until done
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var err error
	done := make(chan struct{})
	go func() { // ends with the program
		defer close(done)
		err = cmd.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		grace := time.NewTimer(2 * time.Second)
		defer grace.Stop()
		select {
		case <-done:
		case <-grace.C:
			a.stuck = done
		}
		return nil, fmt.Errorf("it was stopped before it had answered: %w", ctx.Err())
	}
	if err != nil {
		said := strings.Join(strings.Fields(stderr.String()), " ")
		return nil, fmt.Errorf("%w: %s", err, said[max(0, len(said)-maxMessage):])
	}
	return stdout.Bytes(), nil
}

// write puts a specification into our directory, unless it is there.
func (a *Attacher) write(name string, spec *cdispecs.Spec) error {
	raw, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode CDI specification: %w", err)
	}
	path := filepath.Join(a.cfg.Dir, name)
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, raw) {
		return nil
	}
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return fmt.Errorf("write CDI specification: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write CDI specification: %w", err)
	}
	return nil
}
