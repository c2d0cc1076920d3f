package manifest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxNodes bounds what one document may expand to through its aliases, maxDepth how deep.
const (
	maxNodes = 100_000
	maxDepth = 100
)

// decoder fills messages from the nodes of one document.
type decoder struct {
	file   string
	budget int
	depth  int
}

func (d *decoder) errorf(n *yaml.Node, path, format string, args ...any) error {
	return &Error{File: d.file, Line: n.Line, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// enter follows aliases and takes one node from the budget; leave undoes its depth.
func (d *decoder) enter(n *yaml.Node, path string) (*yaml.Node, error) {
	at := n
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.budget--
	d.depth++
	if d.budget < 0 || d.depth > maxDepth {
		return nil, d.errorf(at, path, "the document is too large or too deep once its aliases are expanded")
	}
	return n, nil
}

func (d *decoder) leave() { d.depth-- }

type entry struct{ key, value *yaml.Node }

// entries answers the pairs of a mapping, merged ones ("<<") last and only where no other sets them.
func (d *decoder) entries(n *yaml.Node, path string) ([]entry, error) {
	n, err := d.enter(n, path)
	if err != nil {
		return nil, err
	}
	defer d.leave()
	if n.Kind != yaml.MappingNode {
		return nil, d.errorf(n, path, "want a mapping of fields, got %s", describe(n))
	}
	var own []entry
	var merged []*yaml.Node
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return nil, d.errorf(key, path, "a key must be a word, not %s", describe(key))
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if first, ok := lines[key.Value]; ok {
			return nil, d.errorf(key, join(path, key.Value), "given twice, first on line %d", first)
		}
		lines[key.Value] = key.Line
		own = append(own, entry{key, value})
	}
	for _, m := range merged {
		more, err := d.merge(m, path)
		if err != nil {
			return nil, err
		}
		for _, e := range more {
			if _, ok := lines[e.key.Value]; !ok {
				lines[e.key.Value] = e.key.Line
				own = append(own, e)
			}
		}
	}
	return own, nil
}

// merge answers the pairs of a merge key's value: a mapping or a list of them, earlier ones first.
func (d *decoder) merge(n *yaml.Node, path string) ([]entry, error) {
	target := n
	for target.Kind == yaml.AliasNode {
		target = target.Alias
	}
	if target.Kind != yaml.SequenceNode {
		return d.entries(n, path)
	}
	var all []entry
	for _, item := range target.Content {
		more, err := d.entries(item, path)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

func (d *decoder) message(n *yaml.Node, path string, m protoreflect.Message) error {
	switch msg := m.Interface().(type) {
	case *structpb.Struct:
		return d.jsonStruct(n, path, msg)
	case *timestamppb.Timestamp:
		return d.timestamp(n, path, msg)
	}
	entries, err := d.entries(n, path)
	if err != nil {
		return err
	}
	d.depth++
	defer d.leave()
	fields := m.Descriptor().Fields()
	set := make(map[protoreflect.Name]int, len(entries))
	for _, e := range entries {
		fd := fields.ByName(protoreflect.Name(e.key.Value))
		if fd == nil {
			fd = fields.ByJSONName(e.key.Value)
		}
		if fd == nil {
			return d.unknown(e.key, path, m.Descriptor())
		}
		at := join(path, e.key.Value)
		if first, ok := set[fd.Name()]; ok {
			return d.errorf(e.key, at, "given twice, first on line %d", first)
		}
		set[fd.Name()] = e.key.Line
		if err := d.field(e.value, at, m, fd); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) unknown(key *yaml.Node, path string, md protoreflect.MessageDescriptor) error {
	at := join(path, key.Value)
	if to := elsewhere(md.Name(), key.Value); to != "" {
		return d.errorf(key, at, "is set for each version: %s", to)
	}
	if md.ReservedNames().Has(protoreflect.Name(key.Value)) {
		return d.errorf(key, at, "not available yet")
	}
	names := make([]string, 0, md.Fields().Len())
	for i := range md.Fields().Len() {
		names = append(names, string(md.Fields().Get(i).Name()))
	}
	hint := didYouMean(key.Value, names)
	if hint == "" {
		hint = ": want one of " + strings.Join(names, ", ")
	}
	return d.errorf(key, at, "unknown field%s", hint)
}

func (d *decoder) field(n *yaml.Node, path string, m protoreflect.Message, fd protoreflect.FieldDescriptor) error {
	switch {
	case fd.IsMap():
		return d.mapField(n, path, m.Mutable(fd).Map(), fd)
	case fd.IsList():
		return d.list(n, path, m.Mutable(fd).List(), fd)
	case fd.Message() != nil:
		return d.message(n, path, m.Mutable(fd).Message())
	}
	v, err := d.scalar(n, path, fd)
	if err != nil {
		return err
	}
	m.Set(fd, v)
	return nil
}

func (d *decoder) list(n *yaml.Node, path string, l protoreflect.List, fd protoreflect.FieldDescriptor) error {
	n, err := d.enter(n, path)
	if err != nil {
		return err
	}
	defer d.leave()
	if n.Kind != yaml.SequenceNode {
		return d.errorf(n, path, "want a list, got %s", describe(n))
	}
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if fd.Message() != nil {
			if err := d.message(item, at, l.AppendMutable().Message()); err != nil {
				return err
			}
			continue
		}
		v, err := d.scalar(item, at, fd)
		if err != nil {
			return err
		}
		l.Append(v)
	}
	return nil
}

func (d *decoder) mapField(n *yaml.Node, path string, m protoreflect.Map, fd protoreflect.FieldDescriptor) error {
	entries, err := d.entries(n, path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		v, err := d.scalar(e.value, join(path, e.key.Value), fd.MapValue())
		if err != nil {
			return err
		}
		m.Set(protoreflect.ValueOfString(e.key.Value).MapKey(), v)
	}
	return nil
}

// scalar converts without guessing; the API's scalars are strings, booleans, integers and doubles.
func (d *decoder) scalar(n *yaml.Node, path string, fd protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	n, err := d.enter(n, path)
	if err != nil {
		return protoreflect.Value{}, err
	}
	defer d.leave()
	if n.Kind != yaml.ScalarNode {
		return protoreflect.Value{}, d.errorf(n, path, "want %s, got %s", wanted(fd), describe(n))
	}
	if n.Tag == "!!null" {
		return protoreflect.Value{}, d.errorf(n, path, "has no value: want %s", wanted(fd))
	}
	wrong := func() error { return d.errorf(n, path, "want %s, got %s", wanted(fd), describe(n)) }
	switch fd.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" {
			return protoreflect.Value{}, d.errorf(n, path, "want a string, got %s: put it in quotes", describe(n))
		}
		return protoreflect.ValueOfString(n.Value), nil
	case protoreflect.BoolKind:
		var b bool
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			return protoreflect.Value{}, wrong()
		}
		return protoreflect.ValueOfBool(b), nil
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		var f float64
		if (n.Tag != "!!float" && n.Tag != "!!int") || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return protoreflect.Value{}, wrong()
		}
		return protoreflect.ValueOfFloat64(f), nil
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return d.integer(n, path, fd)
	}
	return protoreflect.Value{}, d.errorf(n, path, "can't be set in a manifest")
}

func (d *decoder) integer(n *yaml.Node, path string, fd protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	none := protoreflect.Value{}
	var v int64
	i, err := strconv.ParseInt(n.Value, 10, 64)
	switch {
	case err == nil && (n.Tag == "!!int" || n.Tag == "!!str"): // protojson writes 64-bit numbers as strings
		v = i
	case strings.HasSuffix(string(fd.Name()), "_bytes"):
		if v, err = ParseQuantity(n.Value); err != nil {
			return none, d.errorf(n, path, "%v", err)
		}
	default:
		return none, d.errorf(n, path, "want %s, got %s", wanted(fd), describe(n))
	}
	switch fd.Kind() {
	case protoreflect.Int32Kind:
		if v < math.MinInt32 || v > math.MaxInt32 {
			return none, d.errorf(n, path, "%d is out of range: want %d to %d", v, math.MinInt32, math.MaxInt32)
		}
		return protoreflect.ValueOfInt32(int32(v)), nil
	case protoreflect.Uint32Kind:
		if v < 0 || v > math.MaxUint32 {
			return none, d.errorf(n, path, "%d is out of range: want 0 to %d", v, uint32(math.MaxUint32))
		}
		return protoreflect.ValueOfUint32(uint32(v)), nil
	case protoreflect.Uint64Kind:
		if v < 0 {
			return none, d.errorf(n, path, "%d is out of range: want 0 or more", v)
		}
		return protoreflect.ValueOfUint64(uint64(v)), nil
	}
	return protoreflect.ValueOfInt64(v), nil
}

func (d *decoder) timestamp(n *yaml.Node, path string, m *timestamppb.Timestamp) error {
	n, err := d.enter(n, path)
	if err != nil {
		return err
	}
	defer d.leave()
	t, err := time.Parse(time.RFC3339Nano, n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return d.errorf(n, path, "want a time such as 2026-01-31T12:00:00Z, got %s", describe(n))
	}
	proto.Merge(m, timestamppb.New(t))
	return nil
}

// jsonStruct fills a field that takes any JSON object, such as a JSON Schema.
func (d *decoder) jsonStruct(n *yaml.Node, path string, m *structpb.Struct) error {
	v, err := d.json(n, path)
	if err != nil {
		return err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return d.errorf(n, path, "want a mapping, got %s", describe(n))
	}
	s, err := structpb.NewStruct(object)
	if err != nil {
		return d.errorf(n, path, "%v", err)
	}
	proto.Merge(m, s)
	return nil
}

func (d *decoder) json(n *yaml.Node, path string) (any, error) {
	target, err := d.enter(n, path)
	if err != nil {
		return nil, err
	}
	defer d.leave()
	switch target.Kind {
	case yaml.MappingNode:
		entries, err := d.entries(target, path)
		if err != nil {
			return nil, err
		}
		object := make(map[string]any, len(entries))
		for _, e := range entries {
			if object[e.key.Value], err = d.json(e.value, join(path, e.key.Value)); err != nil {
				return nil, err
			}
		}
		return object, nil
	case yaml.SequenceNode:
		list := make([]any, len(target.Content))
		for i, item := range target.Content {
			if list[i], err = d.json(item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return d.jsonScalar(target, path)
}

func (d *decoder) jsonScalar(n *yaml.Node, path string) (any, error) {
	switch n.Tag {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			return nil, d.errorf(n, path, "want a boolean, got %s", describe(n))
		}
		return b, nil
	case "!!int", "!!float":
		var f float64
		if err := n.Decode(&f); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, d.errorf(n, path, "%s is not a number that JSON has", n.Value)
		}
		return f, nil
	}
	return n.Value, nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func wanted(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return "a string"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return "a number"
	}
	if strings.HasSuffix(string(fd.Name()), "_bytes") {
		return "a size such as 512Mi or 80G"
	}
	return "a whole number"
}

// describe names what stands in the file, for people.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	text := n.Value
	if len(text) > 40 {
		text = text[:40] + "…"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the boolean " + text
	case "!!int", "!!float":
		return "the number " + text
	}
	return strconv.Quote(text)
}
