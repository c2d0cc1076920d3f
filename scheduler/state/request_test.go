package state

import (
	"bytes"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// The same ID is another one in another scope. What an older program has remembered has none: there its own digest counts,
// and no other collides with it.
func TestRequestIDsOfScopes(t *testing.T) {
	f := newFixture(t)
	request := func(scope, name string, digest byte) *fleetv1.Command {
		c := writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}}))
		c.RequestScope, c.RequestId, c.RequestDigest = scope, "r", []byte{digest}
		c.Introduced = Introduced(c)
		return c
	}
	repeated := func(what string, c *fleetv1.Command, index uint64) {
		t.Helper()
		if r, evs := f.apply(c); !r.Repeated || r.Index != index || len(evs) > 0 {
			t.Errorf("%s: %+v, want a repetition of %d", what, r, index)
		}
	}
	f.must(request("", "old", 1))
	old := f.index
	repeated("the old one", request("acme/vision", "old", 1), old)
	f.must(request("acme/vision", "one", 2))
	one := f.index
	f.must(request("other/vision", "two", 3))
	two := f.index
	f.must(request("acme/speech", "three", 2))
	three := f.index
	for i := range 2 {
		repeated("one", request("acme/vision", "one", 2), one)
		repeated("two", request("other/vision", "two", 3), two)
		repeated("three", request("acme/speech", "three", 2), three)
		f.refused(request("other/vision", "four", 2), RejectRequestBody, `"r"`)
		f.refused(request("", "four", 2), RejectRequestBody, `"r"`)
		var b bytes.Buffer
		if _, err := f.Snapshot().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if err := f.Restore(&b); err != nil { // and all that in what comes back from a snapshot
			t.Fatalf("%d: %v", i, err)
		}
	}
	if n := f.view().t.requests.Len(); n != 4 {
		t.Errorf("%d requests are kept", n)
	}
	if got := Introduced(request("a/b", "x", 1)); got != 5 {
		t.Errorf("a scope came with %d", got)
	}
	if got := Introduced(&fleetv1.Command{RequestScope: "a/b"}); got != 0 {
		t.Errorf("a command of no type came with %d", got)
	}
}
