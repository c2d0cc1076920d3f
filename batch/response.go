package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Response is what a model declares of its answers. It doesn't change, and may be used by several goroutines.
type Response struct {
	json   bool
	schema *jsonschema.Schema
	array  []string // names on the way to the first array
	splits bool     // there is such an array
}

// NewResponse compiles the response of a route: its Content-type and its JSON Schema. The schema may refer to parts of
// itself, not to anything else.
func NewResponse(contentType string, schema []byte) (*Response, error) {
	root, err := parseJSON(schema)
	if err != nil {
		return nil, fmt.Errorf("the model's response schema: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("the model's response schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2019) // the last one where items may be an array of one schema
	c.UseLoader(jsonschema.SchemeURLLoader{})
	const name = "urn:drover:response"
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("the model's response schema: %s", reason(err))
	}
	compiled, err := c.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("the model's response schema: %s", reason(err))
	}
	r := &Response{json: contentType == "" || contentType == ContentJSON, schema: compiled}
	r.array, r.splits = firstArray(root)
	return r, nil
}

// reason is one line of an error of the library: the first of the details.
func reason(err error) string {
	var schema *jsonschema.SchemaValidationError
	if errors.As(err, &schema) { // it doesn't unwrap
		err = schema.Err
	}
	var details *jsonschema.ValidationError
	if !errors.As(err, &details) {
		return oneLine(err.Error())
	}
	for len(details.Causes) > 0 {
		details = details.Causes[0]
	}
	return oneLine(details.Error())
}

func firstArray(schema *node) ([]string, bool) {
	switch schemaType(schema) {
	case "array":
		return nil, true
	case "object":
		if properties := schema.get("properties"); properties != nil {
			for _, m := range properties.members {
				if path, ok := firstArray(m.value); ok {
					return append([]string{m.name}, path...), true
				}
			}
		}
	}
	return nil, false
}

// Check tells what is wrong with an answer, in one line: a fault of the item. Where the model declares application/json
// it has to be JSON, and with strict it has to match the schema. Answers of other types are taken as they are.
func (r *Response) Check(answer []byte, strict bool) error {
	if !r.json {
		return nil
	}
	if !json.Valid(answer) {
		return fmt.Errorf("the answer isn't JSON: %s", quote(string(answer)))
	}
	if !strict {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(answer))
	if err != nil {
		return fmt.Errorf("the answer isn't JSON: %w", err)
	}
	if err := r.schema.Validate(value); err != nil {
		return fmt.Errorf("the answer doesn't match the declared response: %s", reason(err))
	}
	return nil
}

// CheckRows tells whether answers can be written as lines, as the results of CSV and JSON Lines are.
func (r *Response) CheckRows() error {
	if !r.json {
		return errors.New("the results of rows are lines of JSON: the model's response has to be application/json")
	}
	return nil
}

// CheckBatch tells whether an answer for several rows can be split.
func (r *Response) CheckBatch() error {
	if err := r.CheckRows(); err != nil {
		return err
	}
	if !r.splits {
		return errors.New("several rows a request need an array in the model's response, with an element for each row; its schema has none: use one row a request")
	}
	return nil
}

// Split gives the line of each row of an answer for several rows: the answer with the row's element alone in the first
// array of the response's schema. A line is without white space and without an end, and valid until the next one. With
// one row it is the whole answer. An error is a fault of the items.
func (r *Response) Split(answer []byte, rows int) (iter.Seq[[]byte], error) {
	var buf bytes.Buffer
	if err := json.Compact(&buf, answer); err != nil {
		return nil, fmt.Errorf("the answer isn't JSON: %s", quote(string(answer)))
	}
	answer = buf.Bytes()
	if rows == 1 {
		return func(yield func([]byte) bool) { yield(answer) }, nil
	}
	if err := r.CheckBatch(); err != nil {
		return nil, err
	}
	open, closed, elements, err := r.elements(answer)
	if err != nil {
		return nil, err
	}
	if len(elements) != rows {
		return nil, fmt.Errorf("the answer for %d rows has %d elements in %s", rows, len(elements), r.path())
	}
	return func(yield func([]byte) bool) {
		var line []byte
		for _, e := range elements {
			line = append(append(append(line[:0], answer[:open]...), e...), answer[closed:]...)
			if !yield(line) {
				return
			}
		}
	}, nil
}

func (r *Response) path() string { return strings.Join(append([]string{"$"}, r.array...), ".") }

// elements finds the array: answer[open:closed] is what is between its brackets.
func (r *Response) elements(answer []byte) (open, closed int, elements []json.RawMessage, err error) {
	dec := json.NewDecoder(bytes.NewReader(answer))
	missing := fmt.Errorf("the answer has no array %s, where the rows' results belong", r.path())
	for _, name := range r.array {
		if token, _ := dec.Token(); token != json.Delim('{') {
			return 0, 0, nil, missing
		}
		for found := false; !found; {
			key, _ := dec.Token()
			switch key {
			case json.Delim('}'), nil:
				return 0, 0, nil, missing
			case name:
				found = true
			default:
				var skipped json.RawMessage
				if err := dec.Decode(&skipped); err != nil {
					return 0, 0, nil, missing
				}
			}
		}
	}
	if token, _ := dec.Token(); token != json.Delim('[') {
		return 0, 0, nil, missing
	}
	open = int(dec.InputOffset())
	for dec.More() {
		var e json.RawMessage
		if err := dec.Decode(&e); err != nil {
			return 0, 0, nil, missing
		}
		elements = append(elements, e)
	}
	if _, err := dec.Token(); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, nil, missing
	}
	return open, int(dec.InputOffset()) - 1, elements, nil
}
