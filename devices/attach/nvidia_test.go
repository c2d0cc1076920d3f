package attach_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// gpus is what nvidia-ctk writes by default, but on this host the numbers have changed places since.
const gpus = `---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void, LD_LIBRARY_PATH=/usr/lib/nvidia]
  deviceNodes: [{path: /dev/nvidiactl, hostPath: ROOT/dev/nvidiactl}]
  hooks: [{hookName: createContainer, path: ROOT/usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache]}]
  mounts: [{hostPath: ROOT/lib/libcuda.so.1, containerPath: /lib/libcuda.so.1, options: [ro, nosuid, nodev, bind]}]
devices:
- {name: "0", containerEdits: {deviceNodes: [{path: /dev/nvidia1, hostPath: ROOT/dev/nvidia1}]}}
- {name: "1", containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0}]}}
- {name: all, containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0}, {path: /dev/nvidia1, hostPath: ROOT/dev/nvidia1}]}}
`

// slice of GPU-b, the only one in its GPU instance.
func slice(id string, instance int) devices.Device {
	return devices.Device{ID: id, Vendor: "nvidia", ParentID: "GPU-b", Health: fleetv1.Healthy, GPUInstance: &instance, ComputeInstance: new(int)}
}

func nvidiaMachine(t testing.TB) *machine {
	t.Helper()
	m := newMachine(t)
	for i, name := range []string{"nvidia0", "nvidia1", "nvidiactl", "nvidia-caps/nvidia-cap12", "nvidia-caps/nvidia-cap13",
		"nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap21", "nvidia-caps/nvidia-cap22"} {
		m.node(name, uint32(30+i))
	}
	for of, minor := range map[string]int{"config": 1, "gpu1/mig/gi3/access": 12, "gpu1/mig/gi3/ci0/access": 13,
		"gpu1/mig/gi4/access": 21, "gpu1/mig/gi4/ci0/access": 22} {
		m.write(filepath.Join(m.root, "proc/driver/nvidia/capabilities", of), fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", minor))
	}
	m.write(filepath.Join(m.root, "usr/bin/nvidia-cdi-hook"), "")
	m.write(filepath.Join(m.root, "lib/libcuda.so.1"), "")
	m.devices = []devices.Device{
		gpu("GPU-a", 0), gpu("GPU-b", 1), slice("MIG-x", 3), slice("MIG-y", 4),
	}
	return m
}

func TestNvidiaFromTheHost(t *testing.T) {
	m := nvidiaMachine(t)
	m.spec("nvidia.yaml", gpus)
	m.spec("notes.txt", "no specification")
	m.spec("broken.yaml", "devices: [") // another's: harmless
	a := m.attacher()
	s := container("PATH=/bin", "LD_LIBRARY_PATH=/opt/lib")
	if err := a.Inject(t.Context(), s, []string{"GPU-a"}, false); err != nil {
		t.Fatal(err)
	}
	if got := given(t, s); got != "/dev/nvidia0 60:30, /dev/nvidiactl 60:32" {
		t.Errorf("given: %s", got)
	}
	golden(t, "nvidia.json", m, s)
	both := inject(t, a, "GPU-b", "GPU-a")
	if got := given(t, both); got != "/dev/nvidia0 60:30, /dev/nvidia1 60:31, /dev/nvidiactl 60:32" || len(both.Mounts) != 1 || len(both.Hooks.CreateContainer) != 1 {
		t.Errorf("both: %s, %+v", got, both)
	}
	m.write(filepath.Join(m.cdi+"-later", "mig.json"), `{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"MIG-x","containerEdits":{"deviceNodes":[
		{"path":"/dev/nvidia1","hostPath":"ROOT/dev/nvidia1"},{"path":"/dev/nvidia-caps/nvidia-cap12","hostPath":"ROOT/dev/nvidia-caps/nvidia-cap12"}]}}]}`)
	if got := given(t, inject(t, a, "MIG-x")); got != "/dev/nvidia-caps/nvidia-cap12 60:33, /dev/nvidia1 60:31" {
		t.Errorf("slice: %s", got)
	}
	m.write(filepath.Join(m.cdi+"-later", "gpu.json"), `{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":{"env":["LATER=yes"],
		"deviceNodes":[{"path":"/dev/nvidia1","hostPath":"ROOT/dev/nvidia1"}]}}]}`)
	if s := inject(t, a, "GPU-b"); !slices.Contains(s.Process.Env, "LATER=yes") {
		t.Errorf("the later directory does not win: %v", s.Process.Env)
	}
}

// Slices share their GPU's node: what a container can do is in the nodes of their instances.
func TestNeighboursSlices(t *testing.T) {
	file := func(extra string, nodes ...string) string {
		text := "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n" + extra + "devices: [{name: MIG-x, containerEdits: {deviceNodes: ["
		for _, n := range append([]string{"nvidia1"}, nodes...) {
			text += "{path: /dev/" + n + ", hostPath: ROOT/dev/" + n + "},"
		}
		return text + "]}}, {name: GPU-a, containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0}]}}]\n"
	}
	const instance, part = "nvidia-caps/nvidia-cap12", "nvidia-caps/nvidia-cap13"
	m := nvidiaMachine(t)
	m.spec("gpu.yaml", file("", instance, part))
	if got := given(t, inject(t, m.attacher(), "MIG-x")); got != "/dev/nvidia-caps/nvidia-cap12 60:33, /dev/nvidia-caps/nvidia-cap13 60:34, /dev/nvidia1 60:31" {
		t.Errorf("given: %s", got)
	}
	everyone := "containerEdits: {deviceNodes: [{path: /dev/nvidia-caps/nvidia-cap22, hostPath: ROOT/dev/nvidia-caps/nvidia-cap22}]}\n"
	for name, c := range map[string]struct {
		text, id, want string
		change         func(*machine)
	}{
		"neighbour's instance": {text: file("", instance, part, "nvidia-caps/nvidia-cap21"), want: "nvidia-cap21, which belongs to another device"},
		"neighbour's part":     {text: file("", instance, "nvidia-caps/nvidia-cap22"), want: "nvidia-cap22, which belongs to another device"},
		"configuration":        {text: file("", instance, part, "nvidia-caps/nvidia-cap1"), want: "nvidia-cap1, which belongs to another device"},
		"for all":              {text: file(everyone, instance, part), want: "nvidia-cap22, which belongs to another device"},
		"a whole GPU":          {text: file(everyone, instance, part), id: "GPU-a", want: "nvidia-cap22, which belongs to another device"},
		"unnamed node": {text: file("", instance, part), want: "it isn't known whose that is: slice MIG-x: ROOT/proc/driver/nvidia/capabilities/gpu1/mig/gi3/ci0/access names no node",
			change: func(m *machine) {
				m.write(filepath.Join(m.root, "proc/driver/nvidia/capabilities/gpu1/mig/gi3/ci0/access"), "")
			}},
		"silent driver": {text: file("", instance, part), want: "it isn't known whose that is: the driver doesn't tell the instances of slice MIG-x",
			change: func(m *machine) { m.devices[2].GPUInstance = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			m := nvidiaMachine(t)
			if c.change != nil {
				c.change(m)
			}
			m.spec("gpu.yaml", c.text)
			err := m.attacher().Inject(t.Context(), container(), []string{cmp.Or(c.id, "MIG-x")}, false)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), m.root, "ROOT"), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// What the host's files say is not believed.
func TestFilesThatLie(t *testing.T) {
	head := "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n"
	device := func(edits string) string { return head + "devices: [{name: GPU-a, containerEdits: {" + edits + "}}]\n" }
	const own = "{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0}"
	for name, c := range map[string]struct{ text, want string }{
		"missing node": {device("deviceNodes: [" + own + ", {path: /dev/nvidia-uvm}]"), "it names /dev/nvidia-uvm: that doesn't exist"},
		"stale number": {device("deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0, type: c, major: 60, minor: 31}]"), "is 60:31, but it is 60:30"},
		"wrong type":   {device("deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia0, type: b}]"), `has type "b", but it is "c"`},
		"not a node":   {device("deviceNodes: [{path: /dev/x, hostPath: ROOT/lib/libcuda.so.1}]"), "which is not a device node"},
		"neighbour":    {device("deviceNodes: [" + own + ", {path: /dev/nvidia1, hostPath: ROOT/dev/nvidia1}]"), "/dev/nvidia1, which belongs to another device"},
		"disguised":    {device("deviceNodes: [{path: /dev/nvidia0, hostPath: ROOT/dev/nvidia1}]"), "/dev/nvidia1, which belongs to another device"},
		"neighbour for all": {device("deviceNodes: ["+own+"]") + "containerEdits: {deviceNodes: [{path: /dev/y, hostPath: ROOT/dev/nvidia1}]}\n",
			"/dev/nvidia1, which belongs to another device"},
		"missing mount":  {device("mounts: [{hostPath: /none/lib.so.1, containerPath: /lib.so.1}]"), "it mounts /none/lib.so.1: that doesn't exist"},
		"missing hook":   {device("hooks: [{hookName: createContainer, path: /none/hook}]"), "it runs /none/hook: that doesn't exist"},
		"twice":          {head + "devices: [{name: GPU-a, containerEdits: {env: [A=b]}}, {name: GPU-a, containerEdits: {env: [A=b]}}]", `multiple device "GPU-a"`},
		"malformed":      {head + "devices: [", "can't be used"},
		"unknown field":  {device("deviceNode: []"), "field deviceNode not found"},
		"unknown format": {strings.Replace(device("env: [A=b]"), "0.5.0", "9.0.0", 1), `invalid version "9.0.0"`},
		"null":           {device("deviceNodes: [null]"), "the file is malformed"},
		"null mount":     {device("mounts: [null]"), "the file is malformed"},
		"empty":          {"", "can't be used"},
		"too big":        {device("env: [A=" + strings.Repeat("x", 9<<20) + "]"), "at most 8388608 are read"},
	} {
		t.Run(name, func(t *testing.T) {
			m := nvidiaMachine(t)
			m.spec("gpu.yaml", c.text)
			err := m.attacher().Inject(t.Context(), container(), []string{"GPU-a"}, false)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), filepath.Join(m.cdi, "gpu.yaml")) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v; want one line that names the file and says %q", err, c.want)
			}
		})
	}
	t.Run("two files", func(t *testing.T) {
		m := nvidiaMachine(t)
		m.spec("one.yaml", device("deviceNodes: ["+own+"]"))
		m.spec("two.yaml", device("deviceNodes: ["+own+"]"))
		err := m.attacher().Inject(t.Context(), container(), []string{"GPU-a"}, false)
		if err == nil || !strings.Contains(err.Error(), "nvidia.com/gpu=GPU-a is in several files, "+m.cdi+"/one.yaml and "+m.cdi+"/two.yaml") {
			t.Error(err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		m := nvidiaMachine(t)
		m.write(m.cdi, "a file")
		if err := m.attacher().Inject(t.Context(), container(), []string{"GPU-a"}, false); err == nil || !strings.Contains(err.Error(), m.cdi+" can't be read") {
			t.Error(err)
		}
	})
	t.Run("no regular file", func(t *testing.T) {
		m := nvidiaMachine(t)
		if err := os.MkdirAll(m.cdi, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/zero", filepath.Join(m.cdi, "zero.yaml")); err != nil {
			t.Fatal(err)
		}
		if err := m.attacher().Inject(t.Context(), container(), []string{"GPU-a"}, false); err == nil || !strings.Contains(err.Error(), "zero.yaml can't be used: it is not a regular file") {
			t.Error(err)
		}
	})
}

func TestFilesAreReadAnew(t *testing.T) {
	m := nvidiaMachine(t)
	a := m.attacher()
	file := func(env string) string {
		return "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: GPU-a, containerEdits: {env: [GIVEN=" + env + "]}}]\n"
	}
	for _, env := range []string{"first", "second", "third"} {
		m.spec("gpu.yaml", file(env))
		if s := inject(t, a, "GPU-a"); !slices.Contains(s.Process.Env, "GIVEN="+env) {
			t.Errorf("after the file was written with %s: %v", env, s.Process.Env)
		}
	}
	if err := os.Remove(filepath.Join(m.cdi, "gpu.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := a.Inject(t.Context(), container(), []string{"GPU-a"}, false); err == nil {
		t.Error("the file is gone and the device was given")
	}
}

func TestNvidiaGenerated(t *testing.T) {
	m := nvidiaMachine(t)
	a := m.attacher()
	err := a.Inject(t.Context(), container(), []string{"GPU-a"}, false)
	if err == nil || !strings.Contains(err.Error(), "names the NVIDIA device GPU-a (searched "+m.cdi) || !strings.Contains(err.Error(), "install NVIDIA's container toolkit (package nvidia-container-toolkit)") {
		t.Errorf("without nvidia-ctk: %v", err)
	}
	script := func(body string) { m.write(m.program, "#!/bin/sh\necho run >> ROOT/runs\n"+body) }
	answer := func(nodes ...string) string {
		text := `{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[`
		for i, n := range nodes {
			id, path, _ := strings.Cut(n, " ")
			if i > 0 {
				text += ","
			}
			text += `{"name":"` + id + `","containerEdits":{"deviceNodes":[{"path":"/dev/` + path + `","hostPath":"ROOT/dev/` + path + `"}]}}`
		}
		return "cat <<'END'\n" + text + "]}\nEND\n"
	}
	for want, body := range map[string]string{
		"nvidia-ctk can't make one: exit status 3: no driver is loaded": "echo no driver >&2; echo is loaded >&2; exit 3",
		"what nvidia-ctk made can't be used":                            "echo '{\"devices\": 7}'",
		"what nvidia-ctk made can't be used: failed to unmarshal":       "true",
		"nor nvidia-ctk names the NVIDIA device GPU-a":                  answer("GPU-z nvidia9"),
		"belongs to another device":                                     answer("GPU-a nvidia1"),
	} {
		script(body)
		if err := a.Inject(t.Context(), container(), []string{"GPU-a"}, false); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q", body, err, want)
		}
	}
	script(answer("GPU-a nvidia0", "GPU-b nvidia1") + `[ "$*" = "cdi generate --format=json --device-name-strategy=uuid" ] || exit 9`)
	a = m.attacher()
	runs := func() int { return strings.Count(read(t, filepath.Join(m.root, "runs")), "run") }
	before := runs()
	for _, id := range []string{"GPU-a", "GPU-b"} {
		given(t, inject(t, a, id))
	}
	if n := runs() - before; n != 1 {
		t.Errorf("nvidia-ctk ran %d times for two containers", n)
	}
	script(answer("GPU-a nvidia0", "GPU-b nvidia1", "GPU-c nvidia2"))
	m.node("nvidia2", 40)
	m.devices = append(m.devices, gpu("GPU-c", 2))
	if got := given(t, inject(t, a, "GPU-c")); got != "/dev/nvidia2 60:40" {
		t.Errorf("a new device: %s", got)
	}
	m.spec("nvidia.yaml", gpus)
	if s := inject(t, a, "GPU-a"); !slices.Contains(s.Process.Env, "NVIDIA_VISIBLE_DEVICES=void") {
		t.Errorf("the host's specification came and was not used: %v", s.Process.Env)
	}
}

func TestNvidiaCTKHangs(t *testing.T) {
	m := nvidiaMachine(t)
	m.write(m.program, "#!/bin/sh\nexec sleep 600\n")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.attacher().Inject(ctx, container(), []string{"GPU-a"}, false); err == nil || !strings.Contains(err.Error(), "it was stopped before it had answered") {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// FuzzSpecification: whatever a file holds, there is an answer.
func FuzzSpecification(f *testing.F) {
	for _, text := range []string{gpus, "", "null", "devices: [null]", "kind: nvidia.com/gpu\ncdiVersion: 1.1.0\ndevices: [{name: GPU-a, containerEdits: {netDevices: [null], intelRdt: {}}}]",
		"kind: nvidia.com/gpu\ncdiVersion: 0.7.0\ndevices: [{name: GPU-a, containerEdits: {deviceNodes: [{path: /dev/null}], hooks: [{hookName: prestart, path: /bin/sh}], additionalGids: [7]}}]"} {
		f.Add(text)
	}
	host := nvidiaMachine(f)
	f.Fuzz(func(t *testing.T, text string) {
		m := *host
		m.t = t
		m.spec("fuzz.yaml", text)
		s := container()
		if err := m.attacher().Inject(t.Context(), s, []string{"GPU-a"}, false); err != nil {
			return
		}
		for _, d := range s.Linux.Devices {
			if strings.HasPrefix(d.Path, "/dev/nvidia") && d.Major == 60 && d.Minor == 31 {
				t.Errorf("another's device was given: %+v", d)
			}
		}
	})
}
