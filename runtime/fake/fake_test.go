package fake_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/fake"
	"github.com/drover-fleet/drover/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(*testing.T) runtimetest.Harness {
		r := fake.New(fake.Options{Listen: true})
		return runtimetest.Harness{
			Runtime: r, Image: "example/server:1", Server: "/server",
			Digest:  "sha256:1111111111111111111111111111111111111111111111111111111111111111",
			Missing: "example/missing", MissingDigest: "sha256:2222222222222222222222222222222222222222222222222222222222222222",
			Interrupt: func(_ *testing.T, during func()) {
				r.SetUnavailable(true)
				during()
				r.SetUnavailable(false)
			},
			Lacks: map[runtimetest.Capability]string{
				runtimetest.Logs: "its containers print nothing into files",
			},
		}
	})
}

func TestFaults(t *testing.T) {
	r := fake.New(fake.Options{})
	defer r.Close()
	ctx := t.Context()
	events := r.Watch(ctx)
	r.FailPulls(runtime.ErrFatal)
	req := runtime.PullRequest{Image: "a", Digest: "sha256:a"}
	if _, err := r.Pull(ctx, req, nil); err == nil {
		t.Fatal("the pull that was to fail did not")
	}
	if _, err := r.Pull(ctx, req, nil); err != nil {
		t.Fatalf("the pull after it: %v", err)
	}
	for _, id := range []string{"x-1", "y-1"} {
		if _, err := r.Create(ctx, runtime.Spec{ID: id, Digest: "sha256:a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Start(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.KillLogger("x-1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Break("x-1"); err != nil {
		t.Fatal(err)
	}
	r.SetUnavailable(true)
	if err := r.Exit("y-1", 1, runtime.ExitOOM); err != nil { // unseen
		t.Fatal(err)
	}
	r.SetUnavailable(false)
	want := []runtime.EventKind{runtime.EventLoggerDied, runtime.EventExited, runtime.EventResync}
	for _, kind := range want {
		select {
		case ev := <-events:
			if ev.Kind != kind {
				t.Fatalf("event %+v, want %s", ev, kind)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %s", kind)
		}
	}
	if st, err := r.Status(ctx, "x-1"); err != nil || st.State != runtime.StateBroken {
		t.Errorf("status %+v, %v; want broken", st, err)
	}
	if st, err := r.Status(ctx, "y-1"); err != nil || st.Exit == nil || st.Exit.Reason != runtime.ExitOOM {
		t.Errorf("status %+v, %v; want OOMKilled", st, err)
	}
	r.BreakNetwork(2)
	if n, err := r.RepairNetwork(ctx); n != 2 || err != nil {
		t.Errorf("repaired %d, %v", n, err)
	}
}

func FuzzParseProgram(f *testing.F) {
	f.Add("-exit=1", "-print=2")
	f.Fuzz(func(t *testing.T, a, b string) {
		p, err := fake.ParseProgram(runtime.Spec{}, []string{"/server", a, b})
		if err == nil && p.Code > 255 {
			t.Errorf("code %d", p.Code)
		}
	})
}
