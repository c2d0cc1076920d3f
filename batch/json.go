package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxDepth is how deep schemas and mappings may be nested.
const maxDepth = 64

// node is a JSON value that remembers the order of its properties.
type node struct {
	kind     byte // '{', '[', or 0 for a scalar
	members  []member
	elements []*node
	scalar   json.Token
}

type member struct {
	name  string
	value *node
}

// get returns the property of an object, or nil.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for _, m := range n.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// SchemaJSON returns a stored schema as JSON. A stored object has forgotten the order of its properties: they come in the
// order of their names, where numbers in names count as numbers (input_2 before input_10). Nil gives "{}".
func SchemaJSON(schema *structpb.Struct) ([]byte, error) {
	if schema == nil {
		return []byte("{}"), nil
	}
	data, err := protojson.Marshal(schema)
	if err != nil {
		return nil, fmt.Errorf("write a schema as JSON: %w", err)
	}
	n, err := parseJSON(data)
	if err != nil {
		return nil, err
	}
	n.sort()
	return n.append(nil), nil
}

func (n *node) sort() {
	slices.SortFunc(n.members, func(a, b member) int { return compareNames(a.name, b.name) })
	for _, m := range n.members {
		m.value.sort()
	}
	for _, e := range n.elements {
		e.sort()
	}
}

// compareNames orders names; runs of digits are compared by their value first.
func compareNames(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		dx, dy := digits(x), digits(y)
		if dx == "" || dy == "" {
			if x[0] != y[0] {
				return int(x[0]) - int(y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		vx, vy := strings.TrimLeft(dx, "0"), strings.TrimLeft(dy, "0")
		if len(vx) != len(vy) {
			return len(vx) - len(vy)
		}
		if c := strings.Compare(vx, vy); c != 0 {
			return c
		}
		x, y = x[len(dx):], y[len(dy):]
	}
	if len(x) != len(y) {
		return len(x) - len(y)
	}
	return strings.Compare(a, b)
}

func digits(s string) string {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return s[:i]
		}
	}
	return s
}

// parseJSON reads exactly one value. A property that is given twice and too deep a nesting are errors that name the place.
func parseJSON(data []byte) (*node, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	n, err := parseValue(dec, "$", 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: something follows the value")
	}
	return n, nil
}

func parseValue(dec *json.Decoder, path string, depth int) (*node, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return &node{scalar: token}, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("at %s: nested more than %d deep", path, maxDepth)
	}
	n := &node{kind: byte(delim)}
	seen := map[string]bool{}
	for dec.More() {
		if n.kind == '[' {
			element, err := parseValue(dec, path+"[]", depth+1)
			if err != nil {
				return nil, err
			}
			n.elements = append(n.elements, element)
			continue
		}
		key, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("not JSON: the name of a property of %s is no string", path)
		}
		if seen[name] {
			return nil, fmt.Errorf("at %s: property %q is given twice", path, name)
		}
		seen[name] = true
		value, err := parseValue(dec, path+"."+name, depth+1)
		if err != nil {
			return nil, err
		}
		n.members = append(n.members, member{name, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	return n, nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not JSON: %w", err)
}

// append writes the value without white space.
func (n *node) append(dst []byte) []byte {
	switch n.kind {
	case '{':
		dst = append(dst, '{')
		for i, m := range n.members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, m.name), ':')
			dst = m.value.append(dst)
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for i, e := range n.elements {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = e.append(dst)
		}
		return append(dst, ']')
	}
	switch v := n.scalar.(type) {
	case string:
		return appendString(dst, v)
	case json.Number:
		return append(dst, v...)
	case bool:
		return fmt.Append(dst, v)
	default:
		return append(dst, "null"...)
	}
}

// appendString writes a JSON string; what isn't UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	if plain(s) {
		return append(append(append(dst, '"'), s...), '"')
	}
	return appendJSON(dst, s)
}

// appendJSON writes a value that encoding/json can always write; &, < and > stay as they are.
func appendJSON(dst []byte, v any) []byte {
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("batch: " + err.Error()) // only structs and strings of this package come here
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// plain tells whether s stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}
