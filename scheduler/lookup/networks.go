package lookup

import (
	"cmp"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// maxNetworks that answers are rendered for, whatever nodes say.
const maxNetworks = 64

// networks are those in which some node has an address, besides the default one. It is replaced, never changed.
type networks struct {
	names    []string // ordered
	prefixes []origin // the narrowest first
}

// origin says from where callers come that are in a network.
type origin struct {
	prefix netip.Prefix // not valid where only the name is known
	name   string
}

// parseAddress reads an address of fleetv1.NodeFacts.networks; ok is false when it is none.
func parseAddress(text string) (at netip.Addr, from netip.Prefix, ok bool) {
	ip, _, _ := strings.Cut(text, "/")
	at, err := netip.ParseAddr(ip)
	if err != nil {
		return at, from, false
	}
	if from, err = netip.ParsePrefix(text); err == nil {
		from = from.Masked()
	}
	return at, from, true
}

// count takes over what a node says of its networks now, and answers whether that has changed. By the time that a change
// comes here the view may know later ones, so it isn't the change that is counted.
func (t *Table) count(view state.ReadView, node string) bool {
	last, now := t.counted[node], view.Node(node).GetFacts().GetNetworks()
	if maps.Equal(last, now) {
		return false
	}
	add := func(networks map[string]string, by int) {
		for name, text := range networks {
			if _, from, ok := parseAddress(text); ok {
				o := origin{from, name}
				if t.origins[o] += by; t.origins[o] == 0 {
					delete(t.origins, o)
				}
			}
		}
	}
	add(last, -1)
	add(now, 1)
	if t.counted[node] = now; len(now) == 0 {
		delete(t.counted, node)
	}
	return true
}

// recount takes over the networks of all nodes.
func (t *Table) recount(view state.ReadView) {
	t.origins, t.counted = map[origin]int{}, map[string]map[string]string{}
	for _, n := range view.Nodes() {
		t.count(view, n.GetMeta().GetName())
	}
	t.publish()
}

// publish makes the networks known that there are now, and says whether their names have changed.
func (t *Table) publish() (renamed bool) {
	last, next := t.networks.Load(), &networks{}
	for o := range t.origins {
		if !slices.Contains(next.names, o.name) {
			next.names = append(next.names, o.name)
		}
		if o.prefix.IsValid() {
			next.prefixes = append(next.prefixes, o)
		}
	}
	slices.Sort(next.names)
	next.names = next.names[:min(len(next.names), maxNetworks)]
	slices.SortFunc(next.prefixes, func(a, b origin) int {
		return cmp.Or(b.prefix.Bits()-a.prefix.Bits(), strings.Compare(a.name, b.name), a.prefix.Addr().Compare(b.prefix.Addr()))
	})
	t.networks.Store(next)
	return !slices.Equal(last.names, next.names)
}

// nodeChanged marks the services of a node whose addresses have changed; all says that everything has to be rendered anew.
func (t *Table) nodeChanged(view state.ReadView, c state.Change, dirty services) (all bool) {
	before, after := c.Before.GetNode(), c.After.GetNode()
	if before.GetStatus().GetState() != after.GetStatus().GetState() {
		markNode(view, c.Key.Key, dirty)
	}
	if t.count(view, c.Key.Key) {
		all = t.publish()
		markNode(view, c.Key.Key, dirty)
	}
	markDevices(view, c, dirty)
	return all
}

// networkOf is the network of a caller: the one that he names, else the one that he comes from, else the default one,
// which is empty.
func (t *Table) networkOf(named, remote string) (string, *refusal) {
	known := t.networks.Load()
	switch {
	case named == fleetv1.Default:
		return "", nil
	case named != "":
		if _, ok := slices.BinarySearch(known.names, named); !ok {
			return "", refuse(http.StatusBadRequest, "network %q is not known: no node has an address in it; leave it out, or say %q for the nodes' advertised addresses", named, fleetv1.Default)
		}
		return named, nil
	case len(known.prefixes) == 0:
		return "", nil
	}
	from, _ := netip.ParseAddrPort(remote) // one that can't be read is in no network
	for _, o := range known.prefixes {
		if o.prefix.Contains(from.Addr().Unmap()) {
			return o.name, nil
		}
	}
	return "", nil
}

// pages renders an answer for each further network: the endpoints whose nodes have an address there.
func (t *Table) pages(view state.ReadView, nodes []string, resp *fleetv1.ListEndpointsResponse) map[string]*page {
	names := t.networks.Load().names
	if len(names) == 0 {
		return nil
	}
	out := make(map[string]*page, len(names))
	for _, name := range names {
		in := &fleetv1.ListEndpointsResponse{Index: resp.GetIndex(), MaxAgeSeconds: resp.GetMaxAgeSeconds()}
		for i, e := range resp.GetEndpoints() {
			if at, _, ok := parseAddress(view.Node(nodes[i]).GetFacts().GetNetworks()[name]); ok {
				in.Endpoints = append(in.Endpoints, &fleetv1.Endpoint{Schema: e.GetSchema(), Ip: at.String(), Port: e.GetPort(), InstanceId: e.GetInstanceId(),
					Model: e.GetModel(), ModelVersion: e.GetModelVersion(), Weight: e.GetWeight()})
			}
		}
		out[name] = render(in)
	}
	return out
}

// in is the answer for a network; one that no node is in any more has no endpoints.
func (a *answer) in(network string) *page {
	if network == "" {
		return a.page
	}
	if p := a.others[network]; p != nil {
		return p
	}
	return render(&fleetv1.ListEndpointsResponse{Index: a.page.resp.GetIndex(), MaxAgeSeconds: a.page.resp.GetMaxAgeSeconds()})
}
