// Package softmax is the iris example's model: multinomial logistic regression, trained by gradient descent.
//
// A flower's four measures times a matrix of weights give a score for each species; the highest score wins.
// Training standardises the measures, descends along the gradient of the cross-entropy with a little
// shrinkage of the weights, and folds the standardisation back into the weights, so that the model applies
// to centimetres as they are. Nothing is random: the same data give the same weights.
package softmax

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Model is what training leaves: Weights[class][feature] and Bias[class].
type Model struct {
	Features []string    `json:"features"`
	Classes  []string    `json:"classes"`
	Weights  [][]float64 `json:"weights"`
	Bias     []float64   `json:"bias"`
}

// Sample is one flower: its features, and the index of its class.
type Sample struct {
	Features []float64
	Class    int
}

// Load reads a model and checks that its parts fit together.
func Load(r io.Reader) (*Model, error) {
	var m Model
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		return nil, fmt.Errorf("read the weights: %w", err)
	}
	if len(m.Classes) == 0 || len(m.Weights) != len(m.Classes) || len(m.Bias) != len(m.Classes) {
		return nil, errors.New("read the weights: one row and one bias are needed for each class")
	}
	for _, row := range m.Weights {
		if len(row) != len(m.Features) {
			return nil, errors.New("read the weights: one weight is needed for each feature")
		}
	}
	return &m, nil
}

// Predict answers the most probable class and its probability. It needs as many features as the model has.
func (m *Model) Predict(features []float64) (class string, probability float64) {
	p := m.probabilities(features)
	best := 0
	for c := range p {
		if p[c] > p[best] {
			best = c
		}
	}
	return m.Classes[best], p[best]
}

// Accuracy is the share of samples that the model gets right.
func (m *Model) Accuracy(samples []Sample) float64 {
	right := 0
	for _, s := range samples {
		if class, _ := m.Predict(s.Features); class == m.Classes[s.Class] {
			right++
		}
	}
	return float64(right) / float64(len(samples))
}

func (m *Model) probabilities(features []float64) []float64 {
	p := make([]float64, len(m.Classes))
	highest := math.Inf(-1)
	for c, row := range m.Weights {
		p[c] = m.Bias[c]
		for f, x := range features {
			p[c] += row[f] * x
		}
		highest = max(highest, p[c])
	}
	sum := 0.0
	for c := range p {
		p[c] = math.Exp(p[c] - highest)
		sum += p[c]
	}
	for c := range p {
		p[c] /= sum
	}
	return p
}

// Settings of the training, found by looking at the accuracy.
const (
	steps     = 20_000
	rate      = 0.5
	shrinkage = 1e-4
)

// Train fits a model to the samples.
func Train(features, classes []string, samples []Sample) *Model {
	mean, deviation := moments(len(features), samples)
	scaled := make([]Sample, len(samples))
	for i, s := range samples {
		scaled[i] = Sample{Features: make([]float64, len(features)), Class: s.Class}
		for f, x := range s.Features {
			scaled[i].Features[f] = (x - mean[f]) / deviation[f]
		}
	}
	m := &Model{Features: features, Classes: classes, Weights: matrix(len(classes), len(features)), Bias: make([]float64, len(classes))}
	for range steps {
		m.descend(scaled)
	}
	for c, row := range m.Weights {
		for f := range row {
			row[f] /= deviation[f]
			m.Bias[c] -= row[f] * mean[f]
		}
	}
	return m
}

// descend takes one step along the gradient of the mean cross-entropy.
func (m *Model) descend(samples []Sample) {
	gradient := matrix(len(m.Classes), len(m.Features))
	bias := make([]float64, len(m.Classes))
	for _, s := range samples {
		for c, p := range m.probabilities(s.Features) {
			if c == s.Class {
				p--
			}
			bias[c] += p
			for f, x := range s.Features {
				gradient[c][f] += p * x
			}
		}
	}
	n := float64(len(samples))
	for c, row := range m.Weights {
		m.Bias[c] -= rate * bias[c] / n
		for f := range row {
			row[f] -= rate * (gradient[c][f]/n + shrinkage*row[f])
		}
	}
}

func moments(features int, samples []Sample) (mean, deviation []float64) {
	mean, deviation = make([]float64, features), make([]float64, features)
	n := float64(len(samples))
	for _, s := range samples {
		for f, x := range s.Features {
			mean[f] += x / n
		}
	}
	for _, s := range samples {
		for f, x := range s.Features {
			deviation[f] += (x - mean[f]) * (x - mean[f]) / n
		}
	}
	for f := range deviation {
		deviation[f] = math.Sqrt(deviation[f])
	}
	return mean, deviation
}

func matrix(rows, columns int) [][]float64 {
	m := make([][]float64, rows)
	for i := range m {
		m[i] = make([]float64, columns)
	}
	return m
}
