package lookup

import (
	"net/http"
	"testing"
	"testing/synctest"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// TestServicesOfJobsAreAbsent: nobody calls the instances of jobs, by whatever name and whenever they came.
func TestServicesOfJobsAreAbsent(t *testing.T) {
	run(t, func(f *fixture) {
		ofJob := func(name, id string) *fleetv1.Service {
			s := service(name, id, "own")
			s.Spec.JobId = "j1"
			return s
		}
		f.put(ofJob("job.score", "s1"))
		f.put(instance("a", "s1", 30001))
		f.table.Refresh() // finds it there
		f.put(ofJob("job.later", "s2"))
		f.put(instance("b", "s2", 30002))
		synctest.Wait()
		for _, name := range []string{"job.score", "s1", "job.later", "s2"} {
			if w := f.get(http.MethodGet, "/v1/default/services/"+name+"/predict/endpoints?type=host_endpoints", "root-secret"); w.Code != http.StatusNotFound {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
	})
}
