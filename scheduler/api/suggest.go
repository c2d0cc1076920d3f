package api

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

// maxListed is how many names an error lists.
const maxListed = 10

// missing is the error for a name that nothing has: it suggests the nearest name, or lists what exists.
// field is the request's field that named it, or empty.
func missing(field, kind, name string, existing []string) *Error {
	msg := fmt.Sprintf("there is no %s %q", kind, name)
	switch near := nearest(name, existing); {
	case near != "":
		msg += fmt.Sprintf("; did you mean %q?", near)
	case len(existing) == 0:
		msg += ", and none exists yet: create it first"
	default:
		slices.Sort(existing)
		existing = slices.Compact(existing)
		list := strings.Join(existing[:min(len(existing), maxListed)], ", ")
		if len(existing) > maxListed {
			list += ", …"
		}
		msg += "; there are: " + list
	}
	e := &Error{Code: codes.NotFound, Msg: msg}
	if field != "" {
		e.Msg = field + ": " + msg
		e.Fields = []Violation{{field, msg}}
	}
	return e
}

// nearest is the existing name that differs least, when it differs by little.
func nearest(name string, existing []string) string {
	best, bestDistance := "", max(len(name)/3, 1)+1
	for _, e := range existing {
		if d := distance(strings.ToLower(name), strings.ToLower(e)); d < bestDistance {
			best, bestDistance = e, d
		}
	}
	return best
}

// distance is the number of single-byte edits between two names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// namesOf collects the names of objects.
func namesOf[T interface{ GetMeta() M }, M interface{ GetName() string }](objects []T) []string {
	names := make([]string, 0, len(objects))
	for _, o := range objects {
		names = append(names, o.GetMeta().GetName())
	}
	return names
}
