package state

import (
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Ranges are item numbers: ascending, none empty, and no two that touch.
type Ranges []*fleetv1.ItemRange

// after is the place of the first range that ends at or after a number.
func (r Ranges) after(n int64) int {
	i, _ := slices.BinarySearchFunc(r, n, func(have *fleetv1.ItemRange, n int64) int {
		if have.GetTo() < n {
			return -1
		}
		return 1
	})
	return i
}

// Overlaps says whether any number from ≤ n < to is in r.
func (r Ranges) Overlaps(from, to int64) bool {
	i := r.after(from + 1)
	return from < to && i < len(r) && r[i].GetFrom() < to
}

// With answers r and from ≤ n < to; r stays as it is.
func (r Ranges) With(from, to int64) Ranges {
	if from >= to {
		return r
	}
	first, last := r.after(from), r.after(from)
	for last < len(r) && r[last].GetFrom() <= to {
		from, to = min(from, r[last].GetFrom()), max(to, r[last].GetTo())
		last++
	}
	return slices.Concat(r[:first], Ranges{{From: from, To: to}}, r[last:])
}

// Without answers r less from ≤ n < to; r stays as it is.
func (r Ranges) Without(from, to int64) Ranges {
	if from >= to {
		return r
	}
	var out Ranges
	for _, one := range r {
		for _, left := range []*fleetv1.ItemRange{{From: one.GetFrom(), To: min(one.GetTo(), from)}, {From: max(one.GetFrom(), to), To: one.GetTo()}} {
			if left.GetFrom() < left.GetTo() {
				out = append(out, left)
			}
		}
	}
	return out
}

// Next is the first range of numbers in from ≤ n < to that are not in r, or an empty one.
func (r Ranges) Next(from, to int64) (int64, int64) {
	for i := r.after(from + 1); i < len(r) && r[i].GetFrom() < to; i++ {
		if from < r[i].GetFrom() {
			return from, r[i].GetFrom()
		}
		from = r[i].GetTo()
	}
	return from, max(from, to)
}

// Items is how many numbers are in r.
func (r Ranges) Items() int64 {
	var n int64
	for _, one := range r {
		n += one.GetTo() - one.GetFrom()
	}
	return n
}
