package health

import (
	"strconv"
	"strings"
)

// table is the rows, by source and sign.
type table map[source]map[string]*Row

func newTable(rows []Row) table {
	t := table{}
	for i := range rows {
		r := &rows[i]
		if t[r.Source] == nil {
			t[r.Source] = map[string]*Row{}
		}
		for _, sign := range r.Signs {
			for _, one := range spread(sign) {
				t[r.Source][one] = r
			}
		}
	}
	return t
}

// spread answers the numbers of a range "39-41", and everything else as it is.
func spread(sign string) []string {
	low, high, isRange := strings.Cut(sign, "-")
	first, err := strconv.Atoi(low)
	last, err2 := strconv.Atoi(high)
	if !isRange || err != nil || err2 != nil {
		return []string{sign}
	}
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n))
	}
	return out
}

// find answers the row of a sign. Each source has a row for all others, or only signs of our own.
func (t table) find(s source, sign string) *Row {
	if r := t[s][sign]; r != nil {
		return r
	}
	return t[s][others]
}
