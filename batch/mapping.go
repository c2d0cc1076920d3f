package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"
)

// Derive returns the mapping of a request's JSON Schema, indented, to be filled in: the schema itself with "index" 0, 1, 2,
// … at the leaves in the order of the document. An index that a leaf has already is replaced.
func Derive(request []byte) ([]byte, error) {
	root, err := parseJSON(request)
	if err != nil {
		return nil, fmt.Errorf("the model's request schema: %w", err)
	}
	next := 0
	number(root, &next)
	if next == 0 {
		return nil, errors.New("the model's request schema has no string, number, integer or boolean that a column could fill")
	}
	var out bytes.Buffer
	if err := json.Indent(&out, root.append(nil), "", "  "); err != nil {
		return nil, fmt.Errorf("indent a mapping: %w", err)
	}
	return append(out.Bytes(), '\n'), nil
}

func number(schema *node, next *int) {
	switch t := schemaType(schema); {
	case isLeaf(t):
		index := &node{scalar: json.Number(strconv.Itoa(*next))}
		*next++
		for i, m := range schema.members {
			if m.name == "index" {
				schema.members[i].value = index
				return
			}
		}
		schema.members = append(schema.members, member{"index", index})
	case t == "object":
		if properties := schema.get("properties"); properties != nil {
			for _, m := range properties.members {
				number(m.value, next)
			}
		}
	case t == "array":
		number(elementSchema(schema), next)
	}
}

// schemaType is what a schema says of a value's type: a name of JSON Schema, or "" when it says none or several. The type
// null beside another one doesn't count.
func schemaType(schema *node) string {
	switch t := schema.get("type"); {
	case t != nil && t.kind == '[':
		name := ""
		for _, e := range t.elements {
			s, ok := e.scalar.(string)
			if ok && s == "null" {
				continue
			}
			if !ok || name != "" {
				return ""
			}
			name = s
		}
		return name
	case t != nil:
		s, _ := t.scalar.(string)
		return s
	case schema.get("properties") != nil:
		return "object"
	case schema.get("items") != nil:
		return "array"
	}
	return ""
}

func isLeaf(t string) bool {
	return t == "string" || t == "number" || t == "integer" || t == "boolean"
}

// elementSchema is the schema of an array's elements, or nil: "items" as a schema, or as an array of one.
func elementSchema(schema *node) *node {
	items := schema.get("items")
	if items != nil && items.kind == '[' {
		if len(items.elements) != 1 {
			return nil
		}
		return items.elements[0]
	}
	return items
}

// field is a part of a request that columns fill: an object, an array, or a leaf.
type field struct {
	key    []byte   // name and colon, for a property
	kind   string   // as in the schema
	index  int      // column of a leaf
	fields []*field // properties of an object; the element of an array
}

// Mapping fills requests from rows. It doesn't change, and may be used by several goroutines.
type Mapping struct {
	root  *field
	array *field // the one array above every leaf, which gets an element for each row; nil when there is none
}

// NewMapping is ParseMapping of stored objects.
func NewMapping(mapping, request *structpb.Struct) (*Mapping, error) {
	m, err := SchemaJSON(mapping)
	if err != nil {
		return nil, err
	}
	r, err := SchemaJSON(request)
	if err != nil {
		return nil, err
	}
	return ParseMapping(m, r)
}

// ParseMapping reads a mapping and holds it against the schema of the model's request. Whatever part of the schema the
// mapping leaves out or gives no index is left out of the requests. An error names the place as a JSON path of the request.
func ParseMapping(mapping, request []byte) (*Mapping, error) {
	m, err := parseJSON(mapping)
	if err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	r, err := parseJSON(request)
	if err != nil {
		return nil, fmt.Errorf("the model's request schema: %w", err)
	}
	root, err := compile(m, r, "$")
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, errors.New("mapping: no leaf has an index: give each column that the model needs its place")
	}
	return &Mapping{root: root, array: batchArray(root)}, nil
}

func batchArray(f *field) *field {
	for {
		switch {
		case f.kind == "array":
			return f
		case f.kind == "object" && len(f.fields) == 1:
			f = f.fields[0]
		default:
			return nil
		}
	}
}

// CheckBatch tells whether one request can hold several rows.
func (m *Mapping) CheckBatch() error {
	if m.array == nil {
		return errors.New("mapping: several rows a request need one array that holds all that columns fill; the request's schema has none: use one row a request")
	}
	return nil
}

func mappingError(path, format string, args ...any) error {
	return fmt.Errorf("mapping: at %s: %s", path, fmt.Sprintf(format, args...))
}

// compile returns nil when no column fills any of it.
func compile(mapping, request *node, path string) (*field, error) {
	if mapping.kind != '{' {
		return nil, mappingError(path, "want a JSON Schema, which is an object")
	}
	kind := schemaType(mapping)
	if want := schemaType(request); kind != want {
		return nil, mappingError(path, "type %q, where the model's request has %q: take the mapping that is derived from the model and fill it in", kind, want)
	}
	index := mapping.get("index")
	if isLeaf(kind) {
		if index == nil {
			return nil, nil
		}
		column, err := parseIndex(index, path)
		return &field{kind: kind, index: column}, err
	}
	if index != nil {
		return nil, mappingError(path, "an index on type %q: only a string, number, integer or boolean takes a column", kind)
	}
	switch kind {
	case "object":
		return compileObject(mapping, request, path)
	case "array":
		return compileArray(mapping, request, path)
	case "", "null", "file":
		return nil, nil
	}
	return nil, mappingError(path, "unknown type %q: want object, array, string, number, integer or boolean", kind)
}

func compileObject(mapping, request *node, path string) (*field, error) {
	properties := mapping.get("properties")
	if properties == nil {
		return nil, nil
	}
	if properties.kind != '{' {
		return nil, mappingError(path, "properties is no object")
	}
	out := &field{kind: "object"}
	for _, m := range properties.members {
		at := path + "." + m.name
		r := request.get("properties").get(m.name)
		if r == nil {
			return nil, mappingError(at, "the model's request has no such property")
		}
		f, err := compile(m.value, r, at)
		if err != nil {
			return nil, err
		}
		if f != nil {
			f.key = append(appendString(nil, m.name), ':')
			out.fields = append(out.fields, f)
		}
	}
	if len(out.fields) == 0 {
		return nil, nil
	}
	return out, nil
}

func compileArray(mapping, request *node, path string) (*field, error) {
	if mapping.get("items") == nil {
		return nil, nil
	}
	m, r := elementSchema(mapping), elementSchema(request)
	if m == nil {
		return nil, mappingError(path, "items is an array of several schemas or none: want one schema")
	}
	if r == nil {
		return nil, mappingError(path, "items: the model's request says nothing of its elements")
	}
	f, err := compile(m, r, path+"[]")
	if f == nil || err != nil {
		return nil, err
	}
	return &field{kind: "array", fields: []*field{f}}, nil
}

func parseIndex(index *node, path string) (int, error) {
	literal, ok := index.scalar.(json.Number)
	if !ok {
		return 0, mappingError(path, "index %s is no number: give the 0-based column", index.append(nil))
	}
	column, err := strconv.ParseInt(literal.String(), 10, 32)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, mappingError(path, "index %s is no whole number: give the 0-based column", literal)
	case err != nil:
		return 0, mappingError(path, "index %s is out of range: give the 0-based column", literal)
	case column < 0:
		return 0, mappingError(path, "index %s is negative: give the 0-based column, or no index to leave it out", literal)
	}
	return int(column), nil
}
