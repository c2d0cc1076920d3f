package lookup

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// setNetworks makes up what a node says of its addresses; it need not exist yet.
func (f *fixture) setNetworks(node string, networks map[string]string) {
	f.t.Helper()
	n := f.store.View().Node(node)
	if n == nil {
		f.put(&fleetv1.Node{Meta: meta(node, node+"-id"), Facts: &fleetv1.NodeFacts{Networks: networks}})
		return
	}
	after := proto.CloneOf(n)
	after.Facts = &fleetv1.NodeFacts{Networks: networks}
	f.apply(state.Put(n.GetMeta().GetRevision(), after))
}

func TestNetworks(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.setNetworks("n1", map[string]string{"storage": "10.1.0.1/24", "other": "10.2.0.1"})
		f.setNetworks("n2", map[string]string{"storage": "10.1.0.2/24", "wide": "10.1.9.2/16", "bad": "10.1.0/8"})
		f.put(instance("a", "s1", 30001))
		b := instance("b", "s1", 30002)
		b.Spec.Node, b.Observed.Ip = "n2", "10.0.0.2"
		f.put(b)
		synctest.Wait()
		want := func(what, query, from, ips string) {
			t.Helper()
			synctest.Wait()
			r := f.request(http.MethodGet, irisPath+query, "root-secret")
			r.RemoteAddr = from
			w := f.serve(r)
			if got := strings.Join(ipsOf(t, w), " "); w.Code != http.StatusOK || got != ips {
				t.Errorf("%s: %d, %q, want %q", what, w.Code, got, ips)
			}
		}
		const outside = "192.0.2.1:9"
		want("the default", "", outside, "10.0.0.1 10.0.0.2")
		want("named", "&network=storage", outside, "10.1.0.1 10.1.0.2")
		want("named, and one node is there", "&network=other", outside, "10.2.0.1")
		want("from there", "", "10.1.0.77:9", "10.1.0.1 10.1.0.2")
		want("from there, over IPv6", "", "[::ffff:10.1.0.77]:9", "10.1.0.1 10.1.0.2")
		want("from the wider one", "", "10.1.1.1:9", "10.1.9.2")
		want("from there, and another is named", "&network=other", "10.1.0.77:9", "10.2.0.1")
		want("from there, and the default is named", "&network=default", "10.1.0.77:9", "10.0.0.1 10.0.0.2")
		want("from who knows where", "", "@", "10.0.0.1 10.0.0.2")
		for _, name := range []string{"nowhere", "bad"} {
			if w := f.get(http.MethodGet, irisPath+"&network="+name, "root-secret"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "is not known") {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		got, err := f.table.Service().Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris", Network: "storage"})
		if err != nil || len(got.GetAnswer().GetEndpoints()) != 2 || got.GetAnswer().GetEndpoints()[1].GetIp() != "10.1.0.2" || got.GetAnswer().GetEndpoints()[1].GetWeight() != 100 {
			t.Errorf("over gRPC: %v, %v", got, err)
		}
		if _, err := f.table.Service().Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris", Network: "nowhere"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("over gRPC: %v", err)
		}
		watch := f.watch(watchPath + "&network=storage")
		defer watch.end()
		watch.news()
		f.setNetworks("n2", map[string]string{"storage": "10.1.0.3/24"})
		if got := watch.news(); !strings.Contains(got, "10.1.0.3") || strings.Contains(got, "10.1.0.2") {
			t.Errorf("an address has changed: %q", got)
		}
		want("no longer wide", "", "10.1.1.1:9", "10.0.0.1 10.0.0.2")
		f.setNetworks("n1", nil)
		f.setNetworks("n2", nil)
		if got := watch.news(); !strings.Contains(got, `"host_endpoints":[]`) {
			t.Errorf("nobody is in the network any more: %q", got)
		}
		if w := f.get(http.MethodGet, irisPath+"&network=storage", "root-secret"); w.Code != http.StatusBadRequest {
			t.Errorf("nobody is in the network any more: %d", w.Code)
		}
		if len(f.table.origins) != 0 {
			t.Errorf("left: %v", f.table.origins)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"", "10.0.0.1", "10.0.0.1/24", "fd00::1/64", "10.0.0.1/", "10.0.0.1/99", "/", "fe80::1%eth0/64"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, from, ok := parseAddress(s)
		if !ok {
			return
		}
		if _, err := netip.ParseAddr(at.String()); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if from.IsValid() && (from != from.Masked() || !from.Contains(at)) {
			t.Errorf("%q is %v in %v", s, at, from)
		}
	})
}
