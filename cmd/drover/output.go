package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// print writes m in the format that -o asks for; table draws it for people.
func (a *app) print(m proto.Message, table func() error) error {
	switch a.output {
	case "json":
		data, err := encodeJSON(m)
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	case "yaml":
		data, err := encodeYAML(m)
		if err != nil {
			return err
		}
		_, err = a.out.Write(data)
		return err
	}
	return table()
}

// encodeJSON is protojson with the proto's names and white space that doesn't change between versions.
func encodeJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the answer as JSON: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("indent the answer: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// encodeYAML is the same tree in block style; JSON is YAML, so its nodes need only lose their style.
func encodeYAML(m proto.Message) ([]byte, error) {
	data, err := encodeJSON(m)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(data, &node); err != nil {
		return nil, fmt.Errorf("read the answer as YAML: %w", err)
	}
	blockStyle(&node)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fmt.Errorf("encode the answer as YAML: %w", err)
	}
	return b.Bytes(), nil
}

func blockStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		var asPlain yaml.Node
		if yaml.Unmarshal([]byte(n.Value), &asPlain) != nil || len(asPlain.Content) != 1 || asPlain.Content[0].Tag != "!!str" {
			n.Style = yaml.DoubleQuotedStyle // text that would be read as a number, a boolean or nothing
		}
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// colour says whether output is coloured: only on a terminal, and not when NO_COLOR is set.
func (a *app) colour() bool { return a.terminal && a.getenv("NO_COLOR") == "" }

const (
	green  = "32"
	yellow = "33"
	red    = "31"
	faint  = "2"
)

func paint(c cell, colour bool) string {
	if !colour || c.colour == "" {
		return c.text
	}
	return "\x1b[" + c.colour + "m" + c.text + "\x1b[0m"
}

// pairs are the lines of a show command: "Name:  value", values aligned.
type pairs struct {
	names  []string
	values []cell
}

func (p *pairs) add(name string, value cell) {
	p.names = append(p.names, name)
	p.values = append(p.values, value)
}

func (p *pairs) addf(name, format string, args ...any) { p.add(name, text(format, args...)) }

// drawPairs draws for the app's output; on a terminal long values are wrapped.
func (a *app) drawPairs(p pairs) error {
	start := 0 // of the values
	for _, n := range p.names {
		start = max(start, len([]rune(n))+3)
	}
	columns := 0
	if a.terminal {
		columns, _ = a.terminalSize()
	}
	var b bytes.Buffer
	for i, n := range p.names {
		if n != "" { // a further value of the name before has none
			n += ":"
		}
		for _, part := range wrap(orDash(p.values[i].text), columns-start) {
			fmt.Fprintf(&b, "%s%*s%s\n", n, start-len([]rune(n)), "", paint(cell{text: part, colour: p.values[i].colour}, a.colour()))
			n = ""
		}
	}
	_, err := a.out.Write(b.Bytes())
	return err
}
