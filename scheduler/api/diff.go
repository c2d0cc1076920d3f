package api

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// difference is a field in which two messages differ.
type difference struct {
	path     string
	old, new string
}

func (d difference) String() string { return fmt.Sprintf("%s (%s → %s)", d.path, d.old, d.new) }

// differences lists the fields in which two messages of one type differ, innermost ones, in the order of
// the type's fields.
func differences(path string, old, new proto.Message) []difference {
	return diffMessages(path, old.ProtoReflect(), new.ProtoReflect())
}

func diffMessages(path string, a, b protoreflect.Message) []difference {
	var out []difference
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		at := path + "." + string(f.Name())
		x, y := a.Get(f), b.Get(f)
		switch {
		case x.Equal(y) && a.Has(f) == b.Has(f):
		case f.IsList() && f.Message() != nil && x.List().Len() == y.List().Len():
			for j := range x.List().Len() {
				out = append(out, diffMessages(fmt.Sprintf("%s[%d]", at, j), x.List().Get(j).Message(), y.List().Get(j).Message())...)
			}
		case f.IsList():
			out = append(out, difference{at, entries(x.List().Len()), entries(y.List().Len())})
		case f.IsMap():
			out = append(out, difference{at, entries(x.Map().Len()), entries(y.Map().Len())})
		case f.Message() != nil && a.Has(f) && b.Has(f):
			out = append(out, diffMessages(at, x.Message(), y.Message())...)
		case f.Message() != nil:
			out = append(out, difference{at, setness(a.Has(f)), setness(b.Has(f))})
		default:
			out = append(out, difference{at, scalar(x), scalar(y)})
		}
	}
	return out
}

func entries(n int) string { return fmt.Sprintf("%d %s", n, plural(n, "entry", "entries")) }

func setness(set bool) string {
	if set {
		return "set"
	}
	return "not set"
}

func scalar(v protoreflect.Value) string {
	s, isText := v.Interface().(string)
	if !isText {
		return fmt.Sprint(v.Interface())
	}
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// summary names at most five differences.
func summary(diff []difference) string {
	var parts []string
	for _, d := range diff[:min(len(diff), 5)] {
		parts = append(parts, d.String())
	}
	if len(diff) > 5 {
		parts = append(parts, fmt.Sprintf("and %d more", len(diff)-5))
	}
	return strings.Join(parts, ", ")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// usedBy lists the services or jobs that use something.
func usedBy(noun string, users []string) string {
	list := strings.Join(users[:min(len(users), maxListed)], ", ")
	if n := len(users) - maxListed; n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s %s %s it", plural(len(users), noun, noun+"s"), list, plural(len(users), "uses", "use"))
}
