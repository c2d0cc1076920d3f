package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/runtime/fake"
	"github.com/drover-fleet/drover/test/machine"
)

// TestGang runs a gang of which one member is a real container, of an image that claims to be another: the container is
// told the truth, and counts as ready though it listens nowhere.
func TestGang(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	simulate(t, m, "n0") // nodes of one rack have ranks by their names
	liar := containerdtest.NewImage(t, "", map[string]string{"/server": filepath.Join(m.Programs, "server")},
		v1.Config{Entrypoint: []string{"/server", "-exit=0", "-exit-after=1h"}, Env: []string{"DROVER_GANG_RANK=7", "DROVER_GANG_ID=mine", "KEPT=yes"}})
	image, _ := m.Registry.Push(t, "test/liar:1", liar)
	dir := t.TempDir()
	write(t, dir, "flavor.yaml", "kind: Flavor\nmeta: {name: small}\nspec: {cpu_millis: 100, memory_bytes: 64Mi}\n")
	write(t, dir, "pool.yaml", "kind: Pool\nmeta: {name: lab}\nspec: {type: dedicated, nodes: [n0, n1]}\n")
	write(t, dir, "model.yaml", "kind: Model\nmeta: {name: lm}\nspec: {version: 1.0.0, image: "+image+"}\n")
	service := "kind: Service\nmeta: {name: train}\nspec:\n  pool: lab\n  network: host\n  grace_period_seconds: 1\n" +
		"  versions: [{model: lm, flavor: small, instances: 1, nodes: 2, env: {%s}}]\n"
	run(t, m, "apply", "-f", dir)
	bad := write(t, t.TempDir(), "bad.yaml", fmt.Sprintf(service, `DROVER_GANG_RANK: "0"`))
	refused(t, m, 1, []string{"apply", "-f", bad}, `env["DROVER_GANG_RANK"]`, "choose another name")
	run(t, m, "apply", "-f", write(t, dir, "service.yaml", fmt.Sprintf(service, `MASTER_PORT: "29500"`)), "--wait")

	var real member
	for _, i := range read[struct{ Instances []member }](t, m, "instance", "list", "--service", "train").Instances {
		if i.Spec.Node == m.Node {
			real = i
		}
	}
	if real.Spec.Gang.Rank != 1 || real.Spec.Gang.Size != 2 || !real.Observed.Ready || real.Observed.Pid == 0 {
		t.Fatalf("the real member is %+v", real)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", real.Observed.Pid))
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	for _, want := range []string{"DROVER_GANG_ID=" + real.Spec.Gang.ID, "DROVER_GANG_RANK=1", "DROVER_GANG_SIZE=2",
		"DROVER_GANG_ADDRESSES=127.0.0.2,127.0.0.1", "MASTER_PORT=29500", "KEPT=yes"} {
		key, _, _ := strings.Cut(want, "=")
		if n := len(slices.DeleteFunc(slices.Clone(env), func(e string) bool { return !strings.HasPrefix(e, key+"=") })); n != 1 || !slices.Contains(env, want) {
			t.Errorf("the container's environment lacks %s, or has it %d times: %q", want, n, env)
		}
	}
	if list := read[endpoints](t, m, "service", "endpoints", "train").Endpoints; len(list) != 1 || list[0].IP != "127.0.0.2" {
		t.Errorf("endpoints %+v, want that of rank 0 alone", list)
	}
	run(t, m, "delete", "-f", dir)
}

// member is an instance of a gang.
type member struct {
	Spec struct {
		Node string
		Gang struct {
			ID   string
			Rank int
			Size int
		}
	}
	Observed struct {
		Ready bool
		Pid   int
	}
}

// simulate adds a node whose containers exist in memory alone, and serve whatever their command is.
func simulate(t *testing.T, m *machine.Machine, name string) {
	t.Helper()
	rt := fake.New(fake.Options{Listen: true, Program: func(runtime.Spec, []string) (fake.Program, error) { return fake.Program{}, nil }})
	cfg := agent.DefaultConfig()
	cfg.NodeName, cfg.JoinFile = name, filepath.Join(t.TempDir(), "join.yaml")
	m.WriteJoinFile(cfg.JoinFile, name)
	cfg.DataDir, cfg.HTTPAddr, cfg.AdvertiseAddress, cfg.PortMin = t.TempDir(), "127.0.0.1:0", "127.0.0.2", 31500
	a, err := agent.New(cfg, agent.Deps{Runtime: rt, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the simulated node: %v", err)
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	m.Within(limit, "the simulated node is Ready", func() error {
		out, errs, code := m.Drover("node", "show", name)
		if code != 0 || !strings.Contains(out, "Ready") {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
}
