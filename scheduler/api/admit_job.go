package api

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// admitJob checks a new job against everything that it refers to, and fills in what depends on the model.
func (a *API) admitJob(view state.ReadView, j *fleetv1.Job) error {
	const at = "job.spec"
	spec, version := j.GetSpec(), state.VersionOfJob(j.GetSpec())
	service := serviceOfJob(j, version)
	pool, err := admitPool(view, at, service)
	if err != nil {
		return err
	}
	if err := a.admitVersion(view, service, pool, at, "batch", version); err != nil {
		return err
	}
	spec.ModelVersion = version.GetModelVersion()
	model := view.Model(j.GetMeta().GetProject(), spec.GetModel(), spec.GetModelVersion())
	if p := model.GetSpec().GetApi().GetProtocol(); p != "" && p != "http" && p != "https" {
		return unfit(at+".model", "model %q version %s speaks %s; jobs call models by HTTP", spec.GetModel(), spec.GetModelVersion(), p)
	}
	route, err := batchRoute(at+".request_path", model, spec.GetRequestPath())
	if err != nil {
		return err
	}
	if err := admitFormat(at, spec, route); err != nil {
		return err
	}
	return withinQuota(view, j)
}

// serviceOfJob is the job as a service that asks for the version.
func serviceOfJob(j *fleetv1.Job, version *fleetv1.ServiceVersion) *fleetv1.Service {
	return &fleetv1.Service{Meta: j.GetMeta(), Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.ServiceSpec{Pool: j.GetSpec().GetPool(), Network: j.GetSpec().GetNetwork(), JobId: j.GetMeta().GetId(), Versions: []*fleetv1.ServiceVersion{version}}}
}

// withinQuota refuses a job that the project's quota could never let run, whatever else ends: others are waited for.
func withinQuota(view state.ReadView, j *fleetv1.Job) error {
	name := j.GetMeta().GetProject()
	quota := view.Quota(name).GetSpec()
	if quota == nil {
		return nil
	}
	version := state.VersionOfJob(j.GetSpec())
	version.Instances = j.GetSpec().GetMinInstances()
	e := state.Exceeded(quota, state.Usage{}, asks(view, serviceOfJob(j, version)))
	if e == nil {
		return nil
	}
	return refuse(codes.ResourceExhausted, "the quota of project %q never lets %d %s of the job run: %s: %s are asked for at least, the limit is %s",
		name, version.GetInstances(), plural(int(version.GetInstances()), "task", "tasks"), e.Resource, e.More, e.Limit)
}

// batchRoute is the route of the model's apis that jobs call at a path: the first one there, which must say what it takes
// and what it answers. field is the path for the error.
func batchRoute(field string, model *fleetv1.Model, path string) (*fleetv1.APIRoute, error) {
	named := fmt.Sprintf("model %q version %s", model.GetMeta().GetName(), model.GetSpec().GetVersion())
	apis := model.GetSpec().GetApis()
	at := slices.IndexFunc(apis, func(r *fleetv1.APIRoute) bool { return r.GetUrl() == path })
	if at < 0 && len(apis) == 0 {
		return nil, unfit(field, "%s has no apis, which say what a job sends: make a new version", named)
	}
	if at < 0 {
		var paths []string
		for _, r := range apis {
			paths = append(paths, r.GetUrl())
		}
		e := missing(field, "request path", path, paths)
		e.Msg += fmt.Sprintf(" (in the apis of %s)", named)
		return nil, e
	}
	r, lacks := apis[at], ""
	switch {
	case !slices.Contains([]string{"POST", "PUT", "PATCH"}, r.GetMethod()):
		lacks = "a method that sends something: POST, PUT or PATCH"
	case r.GetRequest().GetContentType() == "":
		lacks = "request.Content-type"
	case r.GetRequest().GetData() == nil:
		lacks = "request.data"
	case r.GetResponse().GetContentType() == "":
		lacks = "response.Content-type"
	case r.GetResponse().GetData() == nil:
		lacks = "response.data"
	}
	if lacks != "" {
		return nil, unfit(field, "in the apis of %s, %s %s lacks %s: jobs need what is taken and answered described; make a new version",
			named, r.GetMethod(), path, lacks)
	}
	return r, nil
}

// admitFormat checks how the input is read against what the route takes.
func admitFormat(at string, spec *fleetv1.JobSpec, route *fleetv1.APIRoute) error {
	takes := route.GetRequest().GetContentType()
	fill(&spec.InputFormat, batch.DefaultFormat(spec.GetMapping() != nil, takes))
	switch f := spec.GetInputFormat(); {
	case takes == batch.ContentForm && f != batch.File:
		return unfit(at+".input_format", "%q gives JSON, but %s takes %s: use %q", f, spec.GetRequestPath(), takes, batch.File)
	case takes != batch.ContentForm && f == batch.File:
		return unfit(at+".input_format", "%q gives %s, but %s takes %s: use one of %s", f, batch.ContentForm, spec.GetRequestPath(), takes,
			strings.Join([]string{batch.CSV, batch.JSONLines, batch.JSON}, ", "))
	}
	schema, err := batch.SchemaJSON(route.GetResponse().GetData())
	if err != nil {
		return fmt.Errorf("read the response of a model: %w", err)
	}
	response, err := batch.NewResponse(route.GetResponse().GetContentType(), schema)
	if err != nil {
		return unfit(at+".request_path", "%v; make a new version", err)
	}
	if f := spec.GetInputFormat(); f == batch.CSV || f == batch.JSONLines {
		if err := response.CheckRows(); err != nil {
			return unfit(at+".input_format", "%v", err)
		}
	}
	if spec.GetMapping() == nil {
		return nil
	}
	mapping, err := batch.NewMapping(spec.GetMapping(), route.GetRequest().GetData())
	if err != nil {
		return invalid(at+".mapping", "%v", err)
	}
	if spec.GetBatchRows() == 1 {
		return nil
	}
	if err := mapping.CheckBatch(); err != nil {
		return invalid(at+".batch_rows", "%v", err)
	}
	if err := response.CheckBatch(); err != nil {
		return invalid(at+".batch_rows", "%v", err)
	}
	return nil
}
