package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const service = `# a comment
kind: Service
meta:
  name: iris
  tags: {team: flowers}
spec:
  pool: demo
  auto_stop_hours: 2
  gracePeriodSeconds: 10
  versions:
    - &v
      model: iris
      flavor: small
      weight: 40
      instances: 2
      env: {MODE: "1"}
      limits: {shm_bytes: 256Mi, memlock_bytes: -1}
      mounts: [{source: /data, path: /data, read_only: true}]
    - <<: *v
      model_version: 1.0.0
      weight: 60
`

func TestParseService(t *testing.T) {
	docs, err := Parse("s.yaml", []byte(service))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 1 || docs[0].Line != 2 || docs[0].Name() != "service/iris" {
		t.Fatalf("docs = %+v", docs)
	}
	spec := docs[0].Object.(*fleetv1.Service).GetSpec()
	v := spec.GetVersions()
	if len(v) != 2 || v[0].GetWeight() != 40 || v[1].GetWeight() != 60 || v[1].GetModelVersion() != "1.0.0" {
		t.Fatalf("versions = %v", v)
	}
	if v[1].GetModel() != "iris" || v[1].GetLimits().GetShmBytes() != 256<<20 || v[1].GetLimits().GetMemlockBytes() != -1 ||
		v[1].GetEnv()["MODE"] != "1" || !v[1].GetMounts()[0].GetReadOnly() {
		t.Errorf("merged version = %v", v[1])
	}
	if spec.GetGracePeriodSeconds() != 10 || spec.OnDisconnect != nil {
		t.Errorf("optional fields: %v", spec)
	}
}

func TestParseModelWithSchema(t *testing.T) {
	docs, err := Parse("m.yaml", []byte(`
kind: Model
meta: {name: iris}
spec:
  version: 1.0.0
  metrics: {accuracy: 0.98}
  apis:
    - request:
        Content-type: application/json
        data: {type: object, properties: {a: {type: array, items: [1, 2.5, null, true, "x"]}}}
---
---
kind: Flavor
meta: {name: f}
spec: {memory_bytes: "1048576", accelerator: {memory_min_bytes: 80G, count: 1}}
`))
	if err != nil {
		t.Fatal(err)
	}
	m := docs[0].Object.(*fleetv1.Model)
	r := m.GetSpec().GetApis()[0].GetRequest()
	if r.GetContentType() != "application/json" || m.GetSpec().GetMetrics().GetAccuracy() != 0.98 {
		t.Errorf("model = %v", m)
	}
	data, err := r.GetData().MarshalJSON()
	if err != nil || !strings.Contains(strings.ReplaceAll(string(data), " ", ""), `[1,2.5,null,true,"x"]`) {
		t.Errorf("data = %s, %v", data, err)
	}
	f := docs[1].Object.(*fleetv1.Flavor)
	if len(docs) != 2 || f.GetSpec().GetMemoryBytes() != 1<<20 || f.GetSpec().GetAccelerator().GetMemoryMinBytes() != 80e9 {
		t.Errorf("flavor = %v", f)
	}
}

func TestParseRefuses(t *testing.T) {
	head := "kind: Service\nmeta: {name: iris}\nspec:\n"
	for _, tc := range []struct{ name, yaml, want string }{
		{"misspelt field", head + "  versions:\n    - model: iris\n      weigth: 100\n", "x.yaml:6: spec.versions[0].weigth: unknown field; did you mean weight?"},
		{"unknown field", head + "  colour_of_the_sky: blue\n", "x.yaml:4: spec.colour_of_the_sky: unknown field: want one of description, pool,"},
		{"later field", head + "  traffic_limit: 5\n", "x.yaml:4: spec.traffic_limit: not available yet"},
		{"field of a version", head + "  priority: 5\n", "x.yaml:4: spec.priority: is set for each version: versions[].priority"},
		{"rule of a version", head + "  spread: []\n", "x.yaml:4: spec.spread: is set for each version: versions[].placement.spread"},
		{"misspelt rule", head + "  versions:\n    - placement: {anti_afinity: true}\n", "x.yaml:5: spec.versions[0].placement.anti_afinity: unknown field; did you mean anti_affinity?"},
		{"bad skew", head + "  versions:\n    - placement:\n        spread: [{label: rack, max_skew: some}]\n", `x.yaml:6: spec.versions[0].placement.spread[0].max_skew: want a whole number, got "some"`},
		{"misspelt domain", "kind: Flavor\nmeta: {name: f}\nspec: {accelerator: {domian: numa}}\n", "x.yaml:3: spec.accelerator.domian: unknown field; did you mean domain?"},
		{"usage", "kind: Quota\nmeta: {name: q}\nusage: {}\n", "x.yaml:3: usage: is written by Drover"},
		{"limit without a number", "kind: Quota\nmeta: {name: q}\nspec:\n  instances: none\n", `x.yaml:4: spec.instances: want a whole number, got "none"`},
		{"unknown top field", head + "  pool: x\nspce: {}\n", "x.yaml:5: spce: unknown field; did you mean spec?"},
		{"status", head + "  pool: x\nstatus: {}\n", "x.yaml:5: status: is written by Drover"},
		{"field twice", head + "  pool: x\n  pool: y\n", "x.yaml:5: spec.pool: given twice, first on line 4"},
		{"field twice in two spellings", head + "  auto_stop_hours: 1\n  autoStopHours: 2\n", "x.yaml:5: spec.autoStopHours: given twice, first on line 4"},
		{"number for a string", head + "  pool: 5\n", "x.yaml:4: spec.pool: want a string, got the number 5: put it in quotes"},
		{"number in env", head + "  versions: [{env: {PORT: 80}}]\n", "x.yaml:4: spec.versions[0].env.PORT: want a string, got the number 80: put it in quotes"},
		{"string for a number", head + "  auto_stop_hours: soon\n", `x.yaml:4: spec.auto_stop_hours: want a whole number, got "soon"`},
		{"fraction for a number", head + "  auto_stop_hours: 1.5\n", "x.yaml:4: spec.auto_stop_hours: want a whole number, got the number 1.5"},
		{"too large", head + "  auto_stop_hours: 3000000000\n", "x.yaml:4: spec.auto_stop_hours: 3000000000 is out of range"},
		{"string for a boolean", head + "  versions: [{mounts: [{read_only: maybe}]}]\n", `x.yaml:4: spec.versions[0].mounts[0].read_only: want true or false, got "maybe"`},
		{"mapping for a list", head + "  versions: {model: x}\n", "x.yaml:4: spec.versions: want a list, got a mapping"},
		{"list for a mapping", head + "  - pool\n", "x.yaml:4: spec: want a mapping of fields, got a list"},
		{"list for a scalar", head + "  pool: [x]\n", "x.yaml:4: spec.pool: want a string, got a list"},
		{"no value", head + "  pool:\n", "x.yaml:4: spec.pool: has no value: want a string"},
		{"bad size", "kind: Flavor\nmeta: {name: f}\nspec:\n  memory_bytes: 5Q\n", `x.yaml:4: spec.memory_bytes: "5Q" is no size`},
		{"size of a part of a byte", "kind: Flavor\nmeta: {name: f}\nspec:\n  memory_bytes: 0.3Ki\n", `"0.3Ki" is no size in whole bytes`},
		{"size beyond 64 bits", "kind: Flavor\nmeta: {name: f}\nspec:\n  memory_bytes: 9999999999P\n", "is no size that fits 64 bits"},
		{"no kind", "meta: {name: x}\n", "x.yaml:1: kind is missing: want one of Flavor, Pool, Quota, Model, Service, Job"},
		{"misspelt kind", "kind: Flavour\n", `x.yaml:1: kind: unknown kind "Flavour"; did you mean Flavor?`},
		{"odd kind", "kind: Deployment\n", `x.yaml:1: kind: unknown kind "Deployment": want one of`},
		{"field of a service", "kind: Job\nmeta: {name: j}\nspec: {versions: []}\n", "x.yaml:3: spec.versions: unknown field: want one of description, pool, model,"},
		{"misspelt field of a job", "kind: Job\nmeta: {name: j}\nspec: {inputs: s3://b/p/}\n", "x.yaml:3: spec.inputs: unknown field; did you mean input?"},
		{"mapping that is none", "kind: Job\nmeta: {name: j}\nspec: {mapping: mapping.json}\n", "x.yaml:3: spec.mapping: want a mapping, got"},
		{"desired of a job", "kind: Job\nmeta: {name: j}\ndesired: {run: 2}\n", "x.yaml:3: desired: is written by Drover"},
		{"no name", "kind: Pool\nmeta: {tags: {a: b}}\n", "x.yaml:1: meta.name: is missing"},
		{"not a mapping", "- a\n", "x.yaml:1: want a mapping of fields, got a list"},
		{"bad time", "kind: Pool\nmeta:\n  name: x\n  create_time: noon\n", "x.yaml:4: meta.create_time: want a time such as"},
		{"not YAML", "kind: [\n", "x.yaml: line "},
		{"tab", "kind: Pool\n\tmeta: x\n", "x.yaml: line "},
		{"alias of itself", "kind: Pool\nmeta: &m\n  name: x\n  tags: *m\n", "x.yaml:"},
		{"recursive data", "kind: Model\nmeta: {name: x}\nspec: {apis: [{request: {data: &d {a: *d}}}]}\n", "too large or too deep"},
		{"merge of a scalar", head + "  <<: 5\n", "x.yaml:4: spec: want a mapping of fields, got the number 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(tc.yaml))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err  = %v\nwant = %s", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestAliasBombIsRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("kind: Model\nmeta: {name: x}\nspec:\n  apis:\n  - request:\n      data:\n        a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		prev := "*a" + string(rune('0'+i-1))
		b.WriteString("        a" + string(rune('0'+i)) + ": &a" + string(rune('0'+i)) + " [" + strings.Repeat(prev+", ", 9) + prev + "]\n")
	}
	if _, err := Parse("x.yaml", []byte(b.String())); err == nil || !strings.Contains(err.Error(), "too large or too deep") {
		t.Errorf("err = %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", "kind: Service\nmeta: {name: s}\n---\nkind: Model\nmeta: {name: m}\nspec: {version: 0.1.0}\n")
	write("b.yml", "kind: Pool\nmeta: {name: p}\n")
	write("ignored.json", "not read")
	docs, err := Load([]string{dir, "-"}, strings.NewReader("kind: Flavor\nmeta: {name: f}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range docs {
		names = append(names, d.Name())
	}
	if got := strings.Join(names, " "); got != "flavor/f pool/p model/m@0.1.0 service/s" {
		t.Errorf("order = %s", got)
	}

	for _, tc := range []struct {
		name, stdin string
		paths       []string
		want        string
	}{
		{"twice", "kind: Pool\nmeta: {name: p}\n", []string{dir, "-"}, "stdin:1: pool/p is declared twice, first at " + dir},
		{"missing", "", []string{dir + "/nothing"}, "no such file"},
		{"empty", "# nothing\n", []string{"-"}, "no object found in -"},
		{"too large", strings.Repeat("#", maxFileBytes+1), []string{"-"}, "larger than 4 MiB"},
	} {
		if _, err := Load(tc.paths, strings.NewReader(tc.stdin)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: err = %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := Load([]string{t.TempDir()}, nil); err == nil || !strings.Contains(err.Error(), "holds no .yaml file") {
		t.Errorf("empty directory: %v", err)
	}
}

func TestParseQuantity(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "-1": -1, "17": 17, "256Mi": 256 << 20, "80G": 80e9, "80GB": 80e9, "1.5Gi": 3 << 29,
		"10KiB": 10 << 10, "1k": 1000, "2T": 2e12, "1Pi": 1 << 50,
	} {
		if got, err := ParseQuantity(s); err != nil || got != want {
			t.Errorf("ParseQuantity(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "Gi", "1e3", "1 G", "--1", "1..2", "0x10", "1/2", "1_000", "MiMi", "5m", strings.Repeat("9", 30)} {
		if got, err := ParseQuantity(s); err == nil {
			t.Errorf("ParseQuantity(%q) = %d, want an error", s, got)
		}
	}
}

// FuzzParse: no input makes Parse panic, and what it accepts survives a trip through protojson.
func FuzzParse(f *testing.F) {
	f.Add(service)
	f.Add("kind: Flavor\nmeta: {name: f}\nspec: {memory_bytes: 1.5Gi}\n")
	f.Add("kind: Model\nmeta: {name: x}\nspec: {apis: [{request: {data: &d {a: [1, *d]}}}]}\n")
	f.Add("kind: Pool\nmeta: &m\n  name: x\n<<: [*m, *m]\n")
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := Parse("fuzz", []byte(text))
		if err != nil {
			return
		}
		for _, d := range docs {
			data, err := protojson.Marshal(d.Object)
			if err != nil {
				continue // strings that are not UTF-8, which the scheduler refuses
			}
			again := newObject(strings.ToUpper(d.Kind[:1]) + d.Kind[1:])
			if err := protojson.Unmarshal(data, again); err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			if !proto.Equal(d.Object, again) {
				t.Fatalf("differs:\n%v\n%v", d.Object, again)
			}
		}
	})
}
