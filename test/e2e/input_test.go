package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
)

// lab is a machine with a flavor, a pool and a model, and what bad input may refer to.
type lab struct {
	*machine.Machine
	dir     string // of manifests
	mounts  string // that the operator allowed
	foreign string // image for another architecture
	private string // host of a registry that refuses everybody
	count   int    // of manifests
}

// TestBadInput gives the command line everything that it must refuse: with one line that names what is wrong,
// and with nothing changed.
func TestBadInput(t *testing.T) {
	ports, taken := portRange(t)
	l := &lab{dir: t.TempDir(), mounts: t.TempDir()}
	l.Machine = machine.Start(t, machine.Options{AgentConfig: map[string]any{
		"mount_dirs": []string{l.mounts}, "port_min": ports, "port_max": ports + 20,
	}})
	foreignArch := map[string]string{"amd64": "arm64", "arm64": "amd64"}[goruntime.GOARCH]
	program := map[string]string{"/app": filepath.Join(l.Programs, "app")}
	l.foreign, _ = l.Registry.Push(t, "test/foreign:1", containerdtest.NewImage(t, foreignArch, program, v1.Config{Entrypoint: []string{"/app"}}))
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(refusing.Close)
	l.private = strings.TrimPrefix(refusing.URL, "http://")
	run(t, l.Machine, "flavor", "create", "small", "--cpu", "0.1", "--memory", "64Mi")
	run(t, l.Machine, "pool", "create", "lab", "--type", "dedicated", "--nodes", "n1")
	run(t, l.Machine, "pool", "create", "shared", "--nodes", "n1")
	run(t, l.Machine, "model", "create", "web@1.0.0", "--image", l.Image)
	run(t, l.Machine, "model", "create", "foreign@1.0.0", "--image", l.foreign)
	for _, group := range []struct {
		name  string
		cases func(t *testing.T, l *lab) []badInput
	}{{"Fields", badFields}, {"Images", badImages}, {"References", badReferences}, {"Placement", badPlacement}, {"Mounts", badMounts}} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases(t, l) {
				t.Run(c.name, func(t *testing.T) { l.refuse(t, c) })
			}
		})
	}
	t.Run("OnlyFullNow", l.onlyFullNow)
	t.Run("PortTaken", func(t *testing.T) { l.portTaken(t, taken) })
}

// badInput is one command line, or one manifest to apply, and the words of the refusal.
type badInput struct {
	name     string
	manifest string
	args     []string
	words    []string
}

// state is everything that input could change.
func (l *lab) state(t *testing.T) string {
	var all strings.Builder
	for _, noun := range []string{"flavor", "pool", "model", "service", "instance"} {
		all.WriteString(run(t, l.Machine, noun, "list", "-o", "json"))
	}
	return all.String()
}

func (l *lab) refuse(t *testing.T, c badInput) {
	before := l.state(t)
	args := c.args
	if c.manifest != "" {
		l.count++
		args = []string{"apply", "-f", write(t, l.dir, fmt.Sprintf("%d.yaml", l.count), c.manifest)}
	}
	refused(t, l.Machine, 1, args, c.words...)
	if after := l.state(t); after != before {
		t.Errorf("it changed something:\n%s\nwas\n%s", after, before)
	}
}

// deploy is a service with one part of its version replaced.
func deploy(name, version string) string {
	return "kind: Service\nmeta: {name: " + name + "}\nspec:\n  pool: lab\n  versions:\n    - {" + version + "}\n"
}

const sound = "model: web, flavor: small, instances: 1, weight: 100"

func badFields(_ *testing.T, _ *lab) []badInput {
	with := func(field string) string { return deploy("bad", sound+", "+field) }
	long := strings.Repeat("n", 65)
	return []badInput{
		{"unknown field", with("wieght: 1"), nil, []string{"1.yaml:6", "spec.versions[0]", "wieght"}},
		{"weight over", deploy("bad", "model: web, flavor: small, instances: 1, weight: 101"), nil, []string{"spec.versions[0].weight", "101", "0–100"}},
		{"weights add up", "kind: Service\nmeta: {name: bad}\nspec:\n  pool: lab\n  versions:\n    - {model: web, flavor: small, instances: 1, weight: 50}\n    - {model: web, model_version: 1.0.0, flavor: small, instances: 1, weight: 40}\n", nil, []string{"spec.versions", "90", "100"}},
		{"no instances", deploy("bad", "model: web, flavor: small, instances: -1, weight: 100"), nil, []string{"spec.versions[0].instances", "-1", "1–100000"}},
		{"timeout under", with("timeout_minutes: 2"), nil, []string{"spec.versions[0].timeout_minutes", "2", "3–120"}},
		{"timeout over", with("timeout_minutes: 121"), nil, []string{"spec.versions[0].timeout_minutes", "121", "3–120"}},
		{"long name", deploy(long, sound), nil, []string{"meta.name", "64"}},
		{"bad character", deploy("a/b", sound), nil, []string{"meta.name", "letters, digits"}},
		{"no number", deploy("bad", "model: web, flavor: small, instances: many, weight: 100"), nil, []string{":6", "spec.versions[0].instances", "many"}},
		{"instances of a scale", "", []string{"service", "scale", "nobody", "--instances", "0"}, []string{"instances", "1–100000"}},
	}
}

func badImages(_ *testing.T, l *lab) []badInput {
	create := func(image string) []string { return []string{"model", "create", "bad@1.0.0", "--image", image} }
	missing := l.Registry.Host + "/test/app:none"
	return []badInput{
		{"missing", "", create(missing), []string{missing, "was not found", "push the image"}},
		{"registry down", "", create("127.0.0.1:1/test/app:1"), []string{"127.0.0.1:1", "refused"}},
		{"credentials", "", create(l.private + "/test/app:1"), []string{l.private, "refused access", "registry.docker_config"}},
		{"not a reference", "", create("UPPER//x"), []string{"spec.image", "UPPER//x"}},
		{"architecture", "", append(create(l.foreign), "--arch", goruntime.GOARCH), []string{"spec.arch", goruntime.GOARCH}},
	}
}

func badReferences(_ *testing.T, _ *lab) []badInput {
	return []badInput{
		{"flavor", deploy("bad", "model: web, flavor: none, instances: 1, weight: 100"), nil, []string{"spec.versions[0].flavor", `no flavor "none"`, "small"}},
		{"model", deploy("bad", "model: none, flavor: small, instances: 1, weight: 100"), nil, []string{"spec.versions[0].model", `no model "none"`}},
		{"version", deploy("bad", sound+", model_version: 9.9.9"), nil, []string{"9.9.9", "1.0.0"}},
		{"pool", strings.Replace(deploy("bad", sound), "pool: lab", "pool: none", 1), nil, []string{"spec.pool", `no pool "none"`, "lab"}},
		{"service", "", []string{"service", "stop", "none"}, []string{`no service "none"`}},
		{"instance", "", []string{"instance", "logs", "none"}, []string{`no instance "none"`}},
		{"node", "", []string{"node", "cordon", "none"}, []string{`no node "none"`, "n1"}},
		{"shown flavor", "", []string{"flavor", "show", "none"}, []string{`no flavor "none"`, "small"}},
	}
}

func badPlacement(t *testing.T, l *lab) []badInput {
	run(t, l.Machine, "flavor", "create", "huge", "--cpu", "1000", "--memory", "64Mi")
	run(t, l.Machine, "flavor", "create", "gpu", "--cpu", "0.1", "--memory", "64Mi", "--accelerator", "8")
	return []badInput{
		{"too big", deploy("bad", "model: web, flavor: huge, instances: 1, weight: 100"), nil, []string{"huge", "CPU", "1000"}},
		{"no devices", deploy("bad", "model: web, flavor: gpu, instances: 1, weight: 100"), nil, []string{"gpu", "device"}},
		{"architecture", deploy("bad", "model: foreign, flavor: small, instances: 1, weight: 100"), nil, []string{"arch"}},
	}
}

func badMounts(t *testing.T, l *lab) []badInput {
	outside := t.TempDir()
	mount := func(source, path string) string {
		return deploy("bad", sound+", mounts: [{source: "+source+", path: "+path+"}]")
	}
	cases := []badInput{
		{"outside", mount(outside, "/data"), nil, []string{"spec.versions[0].mounts[0].source", outside}},
		{"public pool", strings.Replace(mount(l.mounts, "/data"), "pool: lab", "pool: shared", 1), nil, []string{"mounts", "dedicated"}},
	}
	for _, path := range []string{"/", "/proc", "/sys/fs", "/dev", "/etc", "/var/run", "relative"} {
		cases = append(cases, badInput{"onto " + path, mount(l.mounts, path), nil, []string{"spec.versions[0].mounts[0].path", path}})
	}
	return cases
}

// onlyFullNow: what fits when others have gone waits, and says what is short.
func (l *lab) onlyFullNow(t *testing.T) {
	cpu := strconv.FormatFloat(0.6*float64(goruntime.NumCPU()), 'f', 1, 64)
	run(t, l.Machine, "flavor", "create", "half", "--cpu", cpu, "--memory", "64Mi")
	path := write(t, l.dir, "half.yaml", deploy("half", "model: web, flavor: half, instances: 2, weight: 100"))
	out, errs, code := l.Drover("apply", "-f", path, "--wait", "--wait-timeout", "3s")
	if code != 1 || !strings.Contains(errs, "service/half: still Deploying") || !strings.Contains(out, "lacks CPU (need "+cpu) {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	s := read[service](t, l.Machine, "service", "show", "half")
	if why := s.Status.Versions[0].WaitingReason; !strings.Contains(why, "1 lacks CPU (need "+cpu+" cores, most free ") {
		t.Errorf("waiting because of %q", why)
	}
	run(t, l.Machine, "service", "delete", "half", "--wait")
}

// portTaken: the first port of the node's range is somebody else's.
func (l *lab) portTaken(t *testing.T, taken net.Listener) {
	path := write(t, l.dir, "port.yaml", deploy("port", sound))
	run(t, l.Machine, "apply", "-f", path, "--wait")
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	e := l.WaitEndpoints(limit, "port", 1)[0]
	if strconv.Itoa(e.Port) == port {
		t.Errorf("the endpoint is %+v, whose port is taken", e)
	}
	if _, err := machine.Call(e, "/", nil); err != nil {
		t.Errorf("call: %v", err)
	}
	run(t, l.Machine, "service", "delete", "port", "--wait")
}

// portRange answers the first port of a range for the node and what listens there.
func portRange(t *testing.T) (first int, taken net.Listener) {
	t.Helper()
	for port := 20000; port < 29000; port += 50 {
		if l, err := net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil {
			t.Cleanup(func() { _ = l.Close() })
			return port, l
		}
	}
	t.Fatal("no port is free")
	return 0, nil
}
