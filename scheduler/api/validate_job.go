package api

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// Limits and defaults of jobs (SPEC §5).
const (
	maxTasks            = 10_000
	maxBatchRows        = 1000
	maxItemTimeout      = 3600
	standardItemTimeout = 40
	maxConcurrency      = 1024
	standardConcurrency = 64
	maxRetries          = 10
	maxOutputKey        = 700 // of the 1,024 bytes that a key may have in object storage
	standardRetries     = 3   // of the model's faults
)

// completeJobSpec fills the defaults in, except for those that depend on the model. Both URLs are written as storage
// writes them, folders with a "/" at their end; what is no URL is left for job to refuse.
func completeJobSpec(s *fleetv1.JobSpec) {
	fill(&s.Network, fleetv1.NetworkBridge)
	fill(&s.RequestPath, "/")
	fillInt(&s.Instances, standardInstances)
	fillInt(&s.MinInstances, s.GetInstances())
	fillInt(&s.TimeoutMinutes, standardTimeout)
	fillInt(&s.Nodes, 1)
	fillInt(&s.BatchRows, 1)
	fillInt(&s.ItemTimeoutSeconds, standardItemTimeout)
	fillInt(&s.MaxConcurrency, standardConcurrency)
	if s.ItemRetries == nil {
		s.ItemRetries = proto.Int32(0)
	}
	if s.ModelRetries == nil {
		s.ModelRetries = proto.Int32(standardRetries)
	}
	for _, p := range s.GetPlacement().GetPreferred() {
		fillInt(&p.Weight, 1)
	}
	for _, r := range s.GetPlacement().GetSpread() {
		fillInt(&r.MaxSkew, 1)
	}
	if u, err := storage.ParseURL(s.GetInput()); err == nil && !isManifest(u) {
		s.Input = u.Folder().String()
	}
	if u, err := storage.ParseURL(s.GetOutput()); err == nil {
		s.Output = u.Folder().String()
	}
}

// isManifest says whether an input is a file that lists inputs, and not a folder of them.
func isManifest(u storage.URL) bool { return strings.HasSuffix(u.Key, ".manifest") }

// job checks a completed job by itself, without what it refers to.
func (v *violations) job(field string, j *fleetv1.Job) {
	v.meta(field, j.GetMeta(), false)
	spec, at := j.GetSpec(), field+".spec"
	v.description(at+".description", spec.GetDescription())
	v.name(at+".pool", spec.GetPool(), false)
	v.oneOf(at+".network", spec.GetNetwork(), fleetv1.NetworkBridge, fleetv1.NetworkHost)
	if n := spec.GetInstances(); n > maxTasks {
		v.between(at+".instances", int64(n), 1, maxTasks)
	} else {
		v.serviceVersion(at, state.VersionOfJob(spec), spec.GetNetwork())
	}
	if n := spec.GetMinInstances(); n < 1 || n > spec.GetInstances() && spec.GetInstances() > 0 {
		v.add(at+".min_instances", "%d is out of range 1–%d (instances)", n, spec.GetInstances())
	}
	v.between(at+".batch_rows", int64(spec.GetBatchRows()), 1, maxBatchRows)
	v.between(at+".item_timeout_seconds", int64(spec.GetItemTimeoutSeconds()), 1, maxItemTimeout)
	v.between(at+".max_concurrency", int64(spec.GetMaxConcurrency()), 1, maxConcurrency)
	v.between(at+".item_retries", int64(spec.GetItemRetries()), 0, maxRetries)
	v.between(at+".model_retries", int64(spec.GetModelRetries()), 0, maxRetries)
	v.urlPath(at+".request_path", spec.GetRequestPath())
	v.inputFormat(at, spec)
	v.places(at, spec)
}

// inputFormat checks how the input is read, as far as that doesn't depend on the model.
func (v *violations) inputFormat(at string, spec *fleetv1.JobSpec) {
	f, mapped := spec.GetInputFormat(), spec.GetMapping() != nil
	if f != "" {
		v.oneOf(at+".input_format", f, batch.CSV, batch.JSONLines, batch.JSON, batch.File)
	}
	switch {
	case f == batch.CSV && !mapped:
		v.add(at+".mapping", "is missing: it says which column of a CSV file fills which part of the request; `drover job mapping` prints one to fill in")
	case f != "" && f != batch.CSV && mapped:
		v.add(at+".mapping", "is for the input_format %q, not for %q: leave one of them out", batch.CSV, f)
	}
	if !mapped && spec.GetBatchRows() > 1 {
		v.add(at+".batch_rows", "%d is for CSV files alone: leave it out, or give a mapping", spec.GetBatchRows())
	}
}

// places checks where a job reads and writes.
func (v *violations) places(at string, spec *fleetv1.JobSpec) {
	input, okIn := v.place(at+".input", spec.GetInput(), "name a link's file in a .manifest")
	output, okOut := v.place(at+".output", spec.GetOutput(), "results can't be written to links")
	if okOut && strings.HasSuffix(output.Key, ".manifest/") {
		v.add(at+".output", "%s is called like a manifest: name a folder", output)
		return
	}
	if okOut && output.Scheme != storage.File && len(output.Key) > maxOutputKey {
		v.add(at+".output", "has a key of %d bytes, at most %d are allowed: names of results follow it", len(output.Key), maxOutputKey)
		return
	}
	if !okIn || !okOut {
		return
	}
	switch in, out := input.String(), output.String(); {
	case in == out:
		v.add(at+".output", "is the input, %s: choose a folder of its own", in)
	case input.IsFolder() && strings.HasPrefix(out, in):
		v.add(at+".output", "%s lies in the input, %s, so that results would be read as inputs: choose a folder outside", out, in)
	case strings.HasPrefix(in, out):
		v.add(at+".output", "the input, %s, lies in it: choose a folder that doesn't hold it", in)
	}
}

// place checks a URL that a job is given; links say why a link is refused.
func (v *violations) place(field, s, links string) (storage.URL, bool) {
	switch {
	case s == "":
		v.add(field, "is missing: it is a URL such as \"s3://bucket/folder/\" or \"file:///dir/\"")
		return storage.URL{}, false
	case len(s) > maxURL:
		v.add(field, "has %d bytes, at most %d are allowed", len(s), maxURL)
		return storage.URL{}, false
	}
	u, err := storage.ParseURL(s)
	switch {
	case err != nil:
		v.add(field, "%s", strings.TrimPrefix(err.Error(), storage.ErrInvalid.Error()+": "))
	case u.Scheme == storage.HTTPS:
		v.add(field, "%s is a link: %s", u, links)
	default:
		return u, true
	}
	return u, false
}
