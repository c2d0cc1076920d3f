// Command train makes the weights of the iris example from Fisher's 150 flowers (iris.csv, in the public
// domain): go run ./examples/iris/train > examples/iris/server/weights.json
//
// It reports the accuracy on the flowers that it was trained on, and that of ten models each of which is
// tested on the tenth of the flowers that it has not seen.
package main

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/drover-fleet/drover/examples/iris/softmax"
)

//go:embed iris.csv
var flowers []byte

func main() {
	if err := run(os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "train:", err)
		os.Exit(1)
	}
}

func run(out, report io.Writer) error {
	features, classes, samples, err := read(flowers)
	if err != nil {
		return err
	}
	m := softmax.Train(features, classes, samples)
	fmt.Fprintf(report, "%d flowers; accuracy on the training data %.4f, on unseen tenths %.4f\n",
		len(samples), m.Accuracy(samples), crossValidate(features, classes, samples))
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the weights: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s\n", data)
	return err
}

// crossValidate is the mean accuracy of ten models on the tenth of the samples that each has not seen.
func crossValidate(features, classes []string, samples []softmax.Sample) float64 {
	const parts = 10
	sum := 0.0
	for part := range parts {
		var seen, unseen []softmax.Sample
		for i, s := range samples {
			if i%parts == part {
				unseen = append(unseen, s)
			} else {
				seen = append(seen, s)
			}
		}
		sum += softmax.Train(features, classes, seen).Accuracy(unseen)
	}
	return sum / parts
}

// read takes the features' names from the first line, and the class from each line's last column.
func read(data []byte) (features, classes []string, samples []softmax.Sample, err error) {
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the flowers: %w", err)
	}
	last := len(rows[0]) - 1
	features = rows[0][:last]
	for _, row := range rows[1:] {
		s := softmax.Sample{Class: slices.Index(classes, row[last])}
		if s.Class < 0 {
			s.Class = len(classes)
			classes = append(classes, row[last])
		}
		for _, cell := range row[:last] {
			x, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("read the flowers: %w", err)
			}
			s.Features = append(s.Features, x)
		}
		samples = append(samples, s)
	}
	return features, classes, samples, nil
}
