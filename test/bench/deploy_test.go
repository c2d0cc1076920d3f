//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// deployments measures Drover and the bare client turn by turn. The first turn of both pulls the image,
// makes bridges and is not counted.
func (b *bench) deployments() {
	plain := newBare(b.t, b.m.Env, machine.Binary(b.t))
	var ready, listed, answered, bareTotal []time.Duration
	var ratios []float64
	steps := map[string][]time.Duration{}
	marks := map[string][]time.Duration{}
	for round := range deployRounds + 1 {
		var d deployment
		var took map[string]time.Duration
		var total time.Duration
		for turn := range 2 {
			var err error
			if (round+turn)%2 == 0 {
				d, err = b.deployment(fmt.Sprintf("deploy-%d", round))
			} else {
				took, total, err = plain.round(b.t.Context())
			}
			b.must(err)
		}
		if round == 0 {
			continue
		}
		ready, listed, answered = append(ready, d.ready), append(listed, d.listed), append(answered, d.answered)
		bareTotal, ratios = append(bareTotal, total), append(ratios, float64(d.ready)/float64(total))
		for step, t := range took {
			steps[step] = append(steps[step], t)
		}
		for mark, t := range d.marks {
			marks[mark] = append(marks[mark], t)
		}
	}
	bare := spreadOf(milliseconds(bareTotal))
	b.report.add(figure{Name: "deploy accepted → ready, image present", Unit: "ms", Measured: spreadOf(milliseconds(ready)), Bare: &bare,
		Goal: &goal{AtMost: 1}, N: deployRounds})
	b.report.add(figure{Name: "the same: ratio of each turn", Unit: "", Measured: spreadOf(ratios), N: deployRounds})
	b.report.add(figure{Name: "deploy accepted → the look-up answers it", Unit: "ms", Measured: spreadOf(milliseconds(listed)), N: deployRounds})
	b.report.add(figure{Name: "deploy asked → accepted", Unit: "ms", Measured: spreadOf(milliseconds(answered)), N: deployRounds})
	for _, mark := range []string{"InstancePlaced", "InstanceStarting", "InstanceHealthy"} {
		if values := marks[mark]; len(values) > 0 {
			b.report.add(figure{Name: "deploy asked → " + mark, Unit: "ms", Measured: spreadOf(milliseconds(values)), N: len(values)})
		}
	}
	for _, step := range bareSteps {
		b.report.add(figure{Name: "bare: " + step, Unit: "ms", Measured: spreadOf(milliseconds(steps[step])), N: deployRounds})
	}
}

// deployment is how long one took: answered from the call, ready and listed from its answer, marks (the
// times of events) from the call.
type deployment struct {
	answered, ready, listed time.Duration
	marks                   map[string]time.Duration
}

func (b *bench) deployment(name string) (d deployment, err error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	asked := time.Now()
	b.deploy(name, "one", 1)
	accepted := time.Now()
	d.answered = accepted.Sub(asked)
	stream, err := b.m.Client.Services.WatchService(ctx, &fleetv1.WatchServiceRequest{Name: name})
	if err != nil {
		return d, fmt.Errorf("watch %s: %w", name, err)
	}
	for isReady := false; !isReady; {
		answer, err := stream.Recv()
		if err != nil {
			return d, fmt.Errorf("watch %s: %w", name, err)
		}
		for _, i := range answer.GetInstances() {
			isReady = isReady || i.GetObserved().GetReady()
		}
	}
	d.ready = time.Since(accepted)
	for len(b.m.Endpoints(name)) == 0 {
		if ctx.Err() != nil {
			return d, fmt.Errorf("look up %s: %w", name, ctx.Err())
		}
	}
	d.listed = time.Since(accepted)
	if body, err := machine.Call(b.m.Endpoints(name)[0], "/", nil); err != nil || body != "ok" {
		return d, fmt.Errorf("call %s: %q, %w", name, body, err)
	}
	d.marks = map[string]time.Duration{}
	for _, e := range b.m.Events(name) {
		d.marks[e.GetReason()] = e.GetTime().AsTime().Sub(asked)
	}
	return d, b.deleted(ctx, name)
}

// deleted deletes a service and waits until nothing is left of it.
func (b *bench) deleted(ctx context.Context, name string) error {
	services := b.m.Client.Services
	if _, err := services.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: name}); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	stream, err := services.WatchService(ctx, &fleetv1.WatchServiceRequest{Name: name})
	for err == nil {
		_, err = stream.Recv()
	}
	if _, err := services.GetService(ctx, &fleetv1.GetServiceRequest{Name: name}); status.Code(err) == codes.NotFound {
		return nil
	}
	return errors.Join(fmt.Errorf("%s was not deleted", name), err)
}
