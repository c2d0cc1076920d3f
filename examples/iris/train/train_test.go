package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/examples/iris/softmax"
)

// TestWeightsAreOfThisData: the committed weights are close to what training gives; the last digits depend
// on whether the processor fuses multiplication and addition.
func TestWeightsAreOfThisData(t *testing.T) {
	features, classes, samples, err := read(flowers)
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != 150 || len(classes) != 3 || len(features) != 4 {
		t.Fatalf("%d flowers of %d classes with %d features", len(samples), len(classes), len(features))
	}
	data, err := os.ReadFile("../server/weights.json")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := softmax.Load(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if a := stored.Accuracy(samples); a < 0.97 {
		t.Errorf("accuracy %.4f", a)
	}
	trained := softmax.Train(features, classes, samples)
	for c, row := range trained.Weights {
		for f, w := range row {
			if d := w - stored.Weights[c][f]; d > 1e-6 || d < -1e-6 {
				t.Errorf("weight of %s for %s: %g, stored %g", features[f], classes[c], w, stored.Weights[c][f])
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, bad := range []string{"", "{}", `{"classes":["a"],"features":["x"],"weights":[[1,2]],"bias":[0]}`, `{"classes":["a"],"weights":[],"bias":[0]}`} {
		if _, err := softmax.Load(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was loaded", bad)
		}
	}
}
