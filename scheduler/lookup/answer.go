package lookup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sort"
	"strconv"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// endpoint is one element of host_endpoints. The first three names are fixed by what clients read.
type endpoint struct {
	Schema       string `json:"schema"`
	IP           string `json:"ip"`
	Port         int32  `json:"port"`
	Model        string `json:"model"`
	ModelVersion string `json:"model_version"`
	Weight       int32  `json:"weight"`
	InstanceID   string `json:"instance_id"`
}

func rendered(e *fleetv1.Endpoint) endpoint {
	return endpoint{e.GetSchema(), e.GetIp(), e.GetPort(), e.GetModel(), e.GetModelVersion(), e.GetWeight(), e.GetInstanceId()}
}

// answerOf renders a service, and answers how many instances it has looked at.
func (t *Table) answerOf(view state.ReadView, s *fleetv1.Service) (a *answer, instances int) {
	pool := view.Pool(s.GetSpec().GetPool())
	if kind := pool.GetSpec().GetType(); kind != fleetv1.PoolDedicated {
		return &answer{refusal: fmt.Sprintf("service %q runs in pool %q, which is %s: only services in a dedicated pool can be looked up",
			s.GetMeta().GetName(), s.GetSpec().GetPool(), kind)}, 0
	}
	resp := &fleetv1.ListEndpointsResponse{Index: view.Index(), MaxAgeSeconds: int32(t.cfg.MaxAge / time.Second)}
	if s.GetDesired().GetState() == fleetv1.DesiredRunning {
		all := view.InstancesOfService(s.GetMeta().GetId())
		instances = len(all)
		serving := t.servingMembers(view, all)
		for _, i := range all {
			if g := i.GetSpec().GetGang(); g != nil && (g.GetRank() != 0 || serving[g.GetId()] < g.GetSize()) {
				continue
			}
			if e := t.endpointOf(view, s, i); e != nil {
				resp.Endpoints = append(resp.Endpoints, e)
			}
		}
	}
	sort.Slice(resp.Endpoints, func(i, j int) bool { return resp.Endpoints[i].GetInstanceId() < resp.Endpoints[j].GetInstanceId() })
	return render(resp), instances
}

// endpointOf is nil when the instance must not be called.
func (t *Table) endpointOf(view state.ReadView, s *fleetv1.Service, i *fleetv1.Instance) *fleetv1.Endpoint {
	seen := i.GetObserved()
	if !t.serves(view, i) || seen.GetIp() == "" || seen.GetPort() == 0 {
		return nil
	}
	e := &fleetv1.Endpoint{
		Schema: i.GetSpec().GetApi().GetProtocol(), Ip: seen.GetIp(), Port: seen.GetPort(), InstanceId: i.GetMeta().GetId(),
		Model: i.GetSpec().GetModel(), ModelVersion: i.GetSpec().GetModelVersion(),
	}
	for _, v := range s.GetSpec().GetVersions() {
		if v.GetModel() == e.GetModel() && v.GetModelVersion() == e.GetModelVersion() {
			e.Weight = v.GetWeight()
		}
	}
	return e
}

func render(resp *fleetv1.ListEndpointsResponse) *answer {
	out := struct {
		Endpoints []endpoint `json:"host_endpoints"`
		Index     uint64     `json:"index"`
		MaxAge    int32      `json:"max_age_seconds"`
	}{make([]endpoint, 0, len(resp.GetEndpoints())), resp.GetIndex(), resp.GetMaxAgeSeconds()}
	for _, e := range resp.GetEndpoints() {
		out.Endpoints = append(out.Endpoints, rendered(e))
	}
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(out); err != nil {
		panic(fmt.Sprintf("lookup: encode an answer of strings and numbers: %v", err))
	}
	sum := fnv.New64a()
	sum.Write(body.Bytes())
	return &answer{
		resp: resp, body: body.Bytes(),
		contentType:   []string{"application/json"},
		contentLength: []string{strconv.Itoa(body.Len())},
		etag:          []string{fmt.Sprintf(`"%x-%x"`, resp.GetIndex(), sum.Sum64())},
		cacheControl:  []string{fmt.Sprintf("private, max-age=%d", resp.GetMaxAgeSeconds())},
	}
}
