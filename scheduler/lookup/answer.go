package lookup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// realTime is the deploy type of models that services run.
const realTime = "real-time"

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

// answer is rendered, and stands until another takes its place.
type answer struct {
	refusal *refusal // why there are no endpoints to tell; then page has none
	page    *page    // in the default network
	others  map[string]*page
	next    chan struct{} // closed when a newer answer stands
}

// page is an answer in the forms in which it is sent.
type page struct {
	resp  *fleetv1.ListEndpointsResponse
	event []byte // of a watch; body is a part of it
	body  []byte
	// Header values, ready to be put into a response's map.
	contentType, contentLength, etag, cacheControl []string

	encoding sync.Once // of message
	message  *grpc.PreparedMsg
	failed   error // to encode it
}

// answerOf renders a service, and answers how many instances it has looked at. The index is more than after.
func (t *Table) answerOf(view state.ReadView, s *fleetv1.Service, after uint64) (a *answer, instances int) {
	resp := &fleetv1.ListEndpointsResponse{Index: max(view.Index(), after+1), MaxAgeSeconds: int32(t.cfg.MaxAge / time.Second)}
	a = &answer{refusal: t.refusalOf(view, s), next: make(chan struct{})}
	var nodes []string // of the endpoints
	if a.refusal == nil {
		all := view.InstancesOfService(s.GetMeta().GetId())
		instances = len(all)
		serving := t.servingMembers(view, all)
		sort.Slice(all, func(i, j int) bool { return all[i].GetMeta().GetId() < all[j].GetMeta().GetId() })
		for _, i := range all {
			if g := i.GetSpec().GetGang(); g != nil && (g.GetRank() != 0 || serving[g.GetId()] < g.GetSize()) {
				continue
			}
			if e := t.endpointOf(view, s, i); e != nil {
				resp.Endpoints = append(resp.Endpoints, e)
				nodes = append(nodes, i.GetSpec().GetNode())
			}
		}
	}
	a.page, a.others = render(resp), t.pages(view, nodes, resp)
	return a, instances
}

// refusalOf is why a service can't be looked up, or nil.
func (t *Table) refusalOf(view state.ReadView, s *fleetv1.Service) *refusal {
	no := func(reason int, format string, args ...any) *refusal {
		return &refusal{status: http.StatusConflict, reason: reason, msg: fmt.Sprintf("service %q ", s.GetMeta().GetName()) + fmt.Sprintf(format, args...)}
	}
	pool := s.GetSpec().GetPool()
	if kind := view.Pool(pool).GetSpec().GetType(); kind != fleetv1.PoolDedicated {
		return no(reasonPool, "runs in pool %q, which is %s: only services in a dedicated pool can be looked up", pool, kind)
	}
	for _, v := range s.GetSpec().GetVersions() {
		model := view.Model(s.GetMeta().GetProject(), v.GetModel(), v.GetModelVersion())
		switch types := model.GetSpec().GetDeployTypes(); {
		case len(types) > 0 && !slices.Contains(types, realTime):
			return no(reasonBatch, "runs model %q version %s, which is for batch jobs: only real-time services can be looked up", v.GetModel(), v.GetModelVersion())
		case model != nil && model.GetSpec().GetImage() == "":
			return no(reasonPackage, "runs model %q version %s, which is a model package: only services that run an image can be looked up", v.GetModel(), v.GetModelVersion())
		}
	}
	switch name := s.GetMeta().GetName(); s.GetDesired().GetState() {
	case fleetv1.DesiredRunning:
		return nil
	case fleetv1.DesiredDeleted:
		return no(reasonStopped, "is being deleted")
	default:
		return no(reasonStopped, "is stopped: start it with drover service start %s", name)
	}
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

func render(resp *fleetv1.ListEndpointsResponse) *page {
	out := struct {
		Endpoints []endpoint `json:"host_endpoints"`
		Index     uint64     `json:"index"`
		MaxAge    int32      `json:"max_age_seconds"`
	}{make([]endpoint, 0, len(resp.GetEndpoints())), resp.GetIndex(), resp.GetMaxAgeSeconds()}
	for _, e := range resp.GetEndpoints() {
		out.Endpoints = append(out.Endpoints, rendered(e))
	}
	var event bytes.Buffer
	fmt.Fprintf(&event, "id: %d\ndata: ", resp.GetIndex())
	start := event.Len()
	if err := json.NewEncoder(&event).Encode(out); err != nil {
		panic(fmt.Sprintf("lookup: encode an answer of strings and numbers: %v", err))
	}
	end := event.Len()
	event.WriteByte('\n')
	body := event.Bytes()[start:end:end]
	sum := fnv.New64a()
	sum.Write(body)
	return &page{
		resp: resp, event: event.Bytes(), body: body,
		contentType:   []string{"application/json"},
		contentLength: []string{strconv.Itoa(len(body))},
		etag:          []string{fmt.Sprintf(`"%x-%x"`, resp.GetIndex(), sum.Sum64())},
		cacheControl:  []string{fmt.Sprintf("private, max-age=%d", resp.GetMaxAgeSeconds())},
	}
}
