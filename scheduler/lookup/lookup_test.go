package lookup

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fixture is a table over a real store; only node leases are made up.
type fixture struct {
	t     testing.TB
	store *state.Store
	table *Table
	index uint64
	mu    sync.Mutex
	lost  map[string]bool
	age   atomic.Int64 // nanoseconds
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, store: state.New(), lost: map[string]bool{}}
	staleness := func() (time.Duration, bool) { return time.Duration(f.age.Load()), true }
	who := auth.NewAuthenticator(auth.AuthenticatorConfig{View: f.store.View, Now: time.Now})
	f.table = New(Config{Store: f.store, MaxAge: 3 * time.Second, Staleness: staleness,
		Authenticate: func(r *http.Request) (auth.Caller, error) { return who.Request(r, nil) },
		LeaseValid: func(n string) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return !f.lost[n]
		}})
	return f
}

func (f *fixture) apply(mutations ...*fleetv1.Mutation) {
	f.t.Helper()
	f.index++
	cmd := &fleetv1.Command{Time: timestamppb.New(time.Unix(1, 0)), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: mutations}}}
	cmd.Introduced = state.Introduced(cmd)
	if r, _ := f.store.Apply(f.index, cmd); len(r.Rejections) > 0 {
		f.t.Fatalf("rejected: %+v", r.Rejections)
	}
}

func (f *fixture) put(m proto.Message) { f.t.Helper(); f.apply(state.Put(0, m)) }

func meta(name, id string) *fleetv1.Meta {
	return &fleetv1.Meta{Name: name, Id: id, Project: fleetv1.Default, Account: fleetv1.Default}
}

func (f *fixture) basics() {
	f.put(&fleetv1.Cluster{Meta: meta("cluster", "c")})
	f.put(&fleetv1.Token{Meta: meta("root", "t1"), Role: fleetv1.RoleAdmin, SecretSha256: auth.Hash("root-secret")})
	f.put(&fleetv1.Token{Meta: meta("nodes", "t2"), Role: fleetv1.RoleAgent, SecretSha256: auth.Hash("agent-secret")})
	f.put(&fleetv1.Token{Meta: &fleetv1.Meta{Name: "other", Project: "other"}, Role: fleetv1.RoleLookup, SecretSha256: auth.Hash("other-secret")})
	f.put(&fleetv1.Flavor{Meta: meta("small", "f")})
	f.put(&fleetv1.Pool{Meta: meta("own", "p1"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated}})
	f.put(&fleetv1.Pool{Meta: meta("shared", "p2"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic}})
	f.put(&fleetv1.Model{Meta: meta("iris", "m"), Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "iris:1"}})
	f.put(&fleetv1.Node{Meta: meta("n1", "n1-id")})
}

func service(name, id, pool string) *fleetv1.Service {
	return &fleetv1.Service{Meta: meta(name, id), Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.ServiceSpec{Pool: pool, Versions: []*fleetv1.ServiceVersion{
			{Model: "iris", ModelVersion: "0.0.1", Weight: 100, Flavor: "small", Instances: 1}}}}
}

func instance(id, serviceID string, port int32) *fleetv1.Instance {
	return &fleetv1.Instance{Meta: meta("i-"+id, id),
		Spec: &fleetv1.InstanceSpec{ServiceId: serviceID, Node: "n1", Model: "iris", ModelVersion: "0.0.1", Flavor: "small",
			Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080}},
		Desired:  &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true, Ip: "10.0.0.1", Port: port}}
}

func (f *fixture) request(method, path, token string, header ...string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func (f *fixture) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.table.ServeHTTP(w, r)
	return w
}

func (f *fixture) get(method, path, token string, header ...string) *httptest.ResponseRecorder {
	return f.serve(f.request(method, path, token, header...))
}

func endpointsOf(t testing.TB, w *httptest.ResponseRecorder) []endpoint {
	t.Helper()
	var out struct {
		HostEndpoints []endpoint `json:"host_endpoints"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.HostEndpoints == nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return out.HostEndpoints
}

func ipsOf(t testing.TB, w *httptest.ResponseRecorder) (ips []string) {
	t.Helper()
	for _, e := range endpointsOf(t, w) {
		ips = append(ips, e.IP)
	}
	return ips
}

const irisPath = "/v1/default/services/iris/predict/endpoints?type=host_endpoints"

// ports are those of the answer at path.
func (f *fixture) ports(path string) []int32 {
	f.t.Helper()
	w := f.get(http.MethodGet, path, "root-secret")
	if w.Code != http.StatusOK {
		f.t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	var ports []int32
	for _, e := range endpointsOf(f.t, w) {
		ports = append(ports, e.Port)
	}
	return ports
}

func run(t *testing.T, test func(f *fixture)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { f.table.Run(ctx); close(done) }()
		f.basics()
		test(f)
		cancel()
		<-done
	})
}

func (f *fixture) want(what string, ports ...int32) {
	f.t.Helper()
	synctest.Wait()
	if got := f.ports(irisPath); fmt.Sprint(got) != fmt.Sprint(ports) {
		f.t.Errorf("%s: ports %v, want %v", what, got, ports)
	}
}

func (f *fixture) editInstance(id string, edit func(*fleetv1.Instance)) {
	old := f.store.View().Instance(id)
	after := proto.CloneOf(old)
	edit(after)
	f.apply(state.Put(old.GetMeta().GetRevision(), after))
}

func (f *fixture) editService(edit func(*fleetv1.Service)) {
	old := f.store.View().Service(fleetv1.Default, "iris")
	after := proto.CloneOf(old)
	edit(after)
	f.apply(state.Put(old.GetMeta().GetRevision(), after))
}

func TestEndpointsFollowTheStore(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.want("no instance")
		f.put(instance("b", "s1", 30002))
		f.put(instance("a", "s1", 30001))
		f.want("two ready", 30001, 30002)
		f.editInstance("a", func(i *fleetv1.Instance) { i.Observed.Ready = false })
		f.want("one not ready", 30002)
		f.editInstance("a", func(i *fleetv1.Instance) { i.Observed.Ready = true })
		f.editInstance("b", func(i *fleetv1.Instance) { i.Desired.State = fleetv1.DesiredStopped })
		f.want("one withdrawn", 30001)
		f.mu.Lock()
		f.lost["n1"] = true
		f.mu.Unlock()
		f.table.NodeChanged("n1")
		f.want("lease lost")
		f.mu.Lock()
		f.lost["n1"] = false
		f.mu.Unlock()
		f.table.Refresh()
		f.want("lease back", 30001)
		f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		synctest.Wait()
		if resp, err := f.table.Endpoints(fleetv1.Default, "iris"); err != nil || len(resp.GetEndpoints()) > 0 {
			t.Errorf("a stopped service: %v, %v", resp, err)
		}
		f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredRunning })
		f.want("started again", 30001)
	})
}

func TestAnswer(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		w := f.get(http.MethodGet, irisPath, "root-secret")
		want := fmt.Sprintf(`{"host_endpoints":[{"schema":"http","ip":"10.0.0.1","port":30001,"model":"iris","model_version":"0.0.1",`+
			`"weight":100,"instance_id":"a"}],"index":%d,"max_age_seconds":3}`+"\n", f.index)
		if w.Body.String() != want {
			t.Errorf("got  %swant %s", w.Body, want)
		}
		etag := w.Header().Get("ETag")
		if again := f.get(http.MethodGet, irisPath, "root-secret", "If-None-Match", etag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("with its ETag %s: %d %q", etag, again.Code, again.Body)
		}
		if byID := f.get(http.MethodGet, strings.Replace(irisPath, "iris", "s1", 1), "root-secret"); byID.Body.String() != want {
			t.Errorf("by ID: %s", byID.Body)
		}
		resp, err := f.table.Endpoints(fleetv1.Default, "s1")
		if err != nil || len(resp.GetEndpoints()) != 1 || resp.GetIndex() != f.index || resp.GetMaxAgeSeconds() != 3 {
			t.Errorf("Endpoints: %v, %v", resp, err)
		}
		// What concerns another service changes nothing here.
		f.put(service("rose", "s2", "own"))
		f.put(instance("z", "s2", 30009))
		synctest.Wait()
		if now := f.get(http.MethodGet, irisPath, "root-secret"); now.Body.String() != want {
			t.Errorf("after another's change: %s", now.Body)
		}
	})
}

func TestServicesComeAndGo(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.want("made")
		f.apply(state.Delete(f.store.View().Service(fleetv1.Default, "iris").GetMeta().GetRevision(), state.ServiceKey(fleetv1.Default, "iris")))
		synctest.Wait()
		for _, name := range []string{"iris", "s1"} {
			if w := f.get(http.MethodGet, strings.Replace(irisPath, "iris", name, 1), "root-secret"); w.Code != http.StatusNotFound {
				t.Errorf("%s after its deletion: %d", name, w.Code)
			}
		}
		f.put(service("iris", "s3", "own"))
		f.put(instance("c", "s3", 30003))
		f.want("made again", 30003)
	})
}

func TestRefusals(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(service("open", "s2", "shared"))
		f.put(&fleetv1.Model{Meta: meta("packed", "m2"), Spec: &fleetv1.ModelSpec{Version: "0.0.1"}})
		f.put(&fleetv1.Model{Meta: meta("bulk", "m3"), Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "bulk:1", DeployTypes: []string{"batch"}}})
		for i, name := range []string{"packed", "bulk", "stopped", "deleted"} {
			s := service(name, fmt.Sprint("r", i), "own")
			switch name {
			case "stopped", "deleted":
				s.Desired.State = name
			default:
				s.Spec.Versions[0].Model = name
			}
			f.put(s)
		}
		synctest.Wait()
		of := func(service string) string { return strings.Replace(irisPath, "iris", service, 1) }
		codes := map[string]string{"public pool": "4091", "stopped": "4092", "deleted": "4092", "package": "4093", "batch": "4094"}
		for _, c := range []struct {
			name, method, path, token string
			status                    int
			msg                       string
		}{
			{"stopped", "GET", of("stopped"), "root-secret", 409, "is stopped: start it"},
			{"deleted", "GET", of("deleted"), "root-secret", 409, "being deleted"},
			{"package", "GET", of("packed"), "root-secret", 409, `"packed" version 0.0.1, which is a model package`},
			{"batch", "GET", of("bulk"), "root-secret", 409, `"bulk" version 0.0.1, which is for batch jobs`},
			{"above", "GET", of(".."), "root-secret", 404, `no service ".."`},
			{"above the project", "GET", "/v1/default/services/../services/iris/predict/endpoints", "root-secret", 404, "nothing at this path"},
			{"encoded dots", "GET", of("%2e%2e"), "root-secret", 400, "encoded"},
			{"encoded slash", "GET", of("x%2Firis"), "root-secret", 400, "encoded"},
			{"encoded slash between", "GET", "/v1%2Fdefault/services/iris/predict/endpoints", "root-secret", 400, "encoded"},
			{"encoded letter", "GET", of("%69ris"), "root-secret", 400, "encoded"},
			{"encoded twice", "GET", of("%252e%252e"), "root-secret", 404, `no service "%2e%2e"`},
			{"encoded zero", "GET", of("iris%00"), "root-secret", 404, "no service"},
			{"backslash", "GET", of(`..%5Ciris`), "root-secret", 404, "no service"},
			{"type twice", "GET", irisPath + "&type=host_endpoints", "root-secret", 400, "type stands 2 times"},
			{"semicolon", "GET", irisPath + ";x=1", "root-secret", 400, "can't be read"},
			{"watch what", "GET", irisPath + "&watch=yes", "root-secret", 400, `watch is "yes"`},
			{"watch and wait", "GET", irisPath + "&watch=true&index=1", "root-secret", 400, "leave index out"},
			{"watch of a head", "HEAD", irisPath + "&watch=true", "root-secret", 400, ""},
			{"wait alone", "GET", irisPath + "&wait=1s", "root-secret", 400, "without index"},
			{"index", "GET", irisPath + "&index=-1", "root-secret", 400, `index is "-1"`},
			{"wait too long", "GET", irisPath + "&index=1&wait=61s", "root-secret", 400, "at most 1m0s"},
			{"wait before now", "GET", irisPath + "&index=1&wait=-1s", "root-secret", 400, `wait is "-1s"`},
			{"watch of a stopped one", "GET", of("stopped") + "&watch=true", "root-secret", 409, "is stopped"},
			{"no token", "GET", irisPath, "", 401, "no credential"},
			{"wrong token", "GET", irisPath, "root-secre", 401, "not known"},
			{"agent's token", "GET", irisPath, "agent-secret", 403, "agent"},
			{"other project's", "GET", irisPath, "other-secret", 404, `no service "iris"`},
			{"absent", "GET", strings.Replace(irisPath, "iris", "rose", 1), "root-secret", 404, `no service "rose"`},
			{"absent project", "GET", strings.Replace(irisPath, "default", "rose", 1), "root-secret", 404, `in project "rose"`},
			{"public pool", "GET", strings.Replace(irisPath, "iris", "open", 1), "root-secret", 409, `"shared", which is public`},
			{"no type", "GET", strings.TrimSuffix(irisPath, "?type=host_endpoints"), "root-secret", 400, "names no type"},
			{"other type", "GET", irisPath + "s", "root-secret", 400, `type "host_endpointss" is not known`},
			{"post", "POST", irisPath, "root-secret", 405, "GET"},
			{"elsewhere", "GET", "/v1/default/services/iris", "root-secret", 404, "nothing at this path"},
			{"slashes", "GET", "/v1/default/services/a/b/predict/endpoints", "root-secret", 404, "nothing at this path"},
			{"no service", "GET", "/v1/default/services//predict/endpoints", "root-secret", 404, "nothing at this path"},
		} {
			w := f.get(c.method, c.path, c.token)
			var out struct {
				Code string `json:"error_code"`
				Msg  string `json:"error_msg"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
				t.Errorf("%s: %v in %q", c.name, err, w.Body)
			}
			code, ok := codes[c.name]
			if !ok && c.status != http.StatusConflict {
				code = fmt.Sprintf("%04d", c.status)
			}
			if w.Code != c.status || code != "" && out.Code != "DROVER."+code || !strings.Contains(out.Msg, c.msg) {
				t.Errorf("%s: %d %+v, want %d and %q", c.name, w.Code, out, c.status, c.msg)
			}
		}
		if w := f.get(http.MethodGet, irisPath+"&x=1", "root-secret"); w.Code != http.StatusOK {
			t.Errorf("further parameters: %d", w.Code)
		}
	})
}

func TestNotBootstrapped(t *testing.T) {
	f := newFixture(t)
	if w := f.get(http.MethodGet, irisPath, "root-secret"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", w.Code)
	}
}

func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"", "/v1/", irisPath, "/v1/a/services/b/predict/endpoints", "/v1//services//predict/endpoints",
		"/v1/a/services/services/b/predict/endpoints"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		project, service, ok := splitPath(s)
		if ok && s != "/v1/"+project+"/services/"+service+"/predict/endpoints" {
			t.Errorf("%q split into %q and %q", s, project, service)
		}
		if ok && strings.Contains(project+service, "/") {
			t.Errorf("%q gave a name with a slash", s)
		}
	})
}

func serve(b *testing.B, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}

func benchTable(b *testing.B) *fixture {
	f := newFixture(b)
	f.basics()
	f.put(service("iris", "s1", "own"))
	for i := range 8 {
		f.put(instance(fmt.Sprint("i", i), "s1", int32(30000+i)))
	}
	f.table.rebuild()
	return f
}

// BenchmarkLookup calls the handler, and a bare one that writes the same bytes, over loopback.
func BenchmarkLookup(b *testing.B) {
	f := benchTable(b)
	body := f.get(http.MethodGet, irisPath, "root-secret").Body.Bytes()
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	})
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"lookup", f.table}, {"bare", bare}} {
		b.Run(c.name, func(b *testing.B) {
			url := serve(b, c.handler) + irisPath
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			defer client.CloseIdleConnections()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				buf := make([]byte, 4096)
				for pb.Next() {
					r, err := http.NewRequest(http.MethodGet, url, nil)
					if err != nil {
						b.Error(err)
						return
					}
					r.Header.Set("X-Auth-Token", "root-secret")
					resp, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					for err == nil {
						_, err = resp.Body.Read(buf)
					}
					resp.Body.Close()
				}
			})
		})
	}
}

// BenchmarkHandler is the handler's own share, without the network.
func BenchmarkHandler(b *testing.B) {
	f := benchTable(b)
	r := httptest.NewRequest(http.MethodGet, irisPath, nil)
	r.Header.Set("X-Auth-Token", "root-secret")
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		w.Body.Reset()
		f.table.ServeHTTP(w, r)
	}
}
