package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// RowError is why a row gives no request: a fault of the item.
type RowError struct {
	// Row counts from 1, as people do.
	Row int
	// Column is 0-based, as in the mapping; -1 when it is about the whole row.
	Column int
	Reason string
}

func (e *RowError) Error() string {
	if e.Column < 0 {
		return fmt.Sprintf("row %d: %s", e.Row, e.Reason)
	}
	return fmt.Sprintf("row %d, column %d: %s", e.Row, e.Column, e.Reason)
}

// Request appends the request for the rows to dst: for several, an array gets one element each, for which CheckBatch has
// to allow it. An error is a *RowError of the first row that can't be sent, or the Err of that row.
func (m *Mapping) Request(dst []byte, rows ...Row) ([]byte, error) {
	if len(rows) == 0 {
		return nil, errors.New("a request needs a row")
	}
	if len(rows) > 1 {
		if err := m.CheckBatch(); err != nil {
			return nil, err
		}
	}
	for _, r := range rows {
		if r.Err != nil {
			return nil, r.Err
		}
	}
	return m.append(dst, m.root, rows)
}

func (m *Mapping) append(dst []byte, f *field, rows []Row) (_ []byte, err error) {
	switch f.kind {
	case "object":
		dst = append(dst, '{')
		for i, p := range f.fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, p.key...)
			if dst, err = m.append(dst, p, rows); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	case "array":
		dst = append(dst, '[')
		elements := 1
		if f == m.array {
			elements = len(rows)
		}
		for i := range elements {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = m.append(dst, f.fields[0], rows[i:i+1]); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	}
	return appendCell(dst, f, rows[0])
}

func appendCell(dst []byte, f *field, row Row) ([]byte, error) {
	if f.index >= len(row.Fields) {
		return nil, &RowError{row.Number, f.index, fmt.Sprintf("there is no such column: the row has %d", len(row.Fields))}
	}
	cell := row.Fields[f.index]
	if f.kind == "string" {
		return appendString(dst, cell), nil
	}
	trimmed := strings.Trim(cell, " \t")
	if out, ok := appendTyped(dst, f.kind, trimmed); ok {
		return out, nil
	}
	if trimmed == "" {
		return nil, &RowError{row.Number, f.index, "it is empty, and the model wants type " + f.kind}
	}
	return nil, &RowError{row.Number, f.index, fmt.Sprintf("%s is not of type %s", quote(cell), f.kind)}
}

func appendTyped(dst []byte, kind, cell string) ([]byte, bool) {
	switch kind {
	case "boolean":
		b, err := strconv.ParseBool(cell)
		return strconv.AppendBool(dst, b), err == nil
	case "integer":
		if literal(cell) && !strings.ContainsAny(cell, ".eE") {
			return append(dst, cell...), true
		}
		n, err := strconv.ParseInt(cell, 10, 64)
		return strconv.AppendInt(dst, n, 10), err == nil
	}
	for i := range len(cell) { // ParseFloat also takes hexadecimal, infinities and no number
		if !strings.ContainsRune("0123456789+-.eE", rune(cell[i])) {
			return nil, false
		}
	}
	v, err := strconv.ParseFloat(cell, 64)
	if err != nil || math.IsInf(v, 0) {
		return nil, false
	}
	if literal(cell) {
		return append(dst, cell...), true // every digit of it
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64), true
}

// literal tells whether a cell is a number of JSON as it stands.
func literal(cell string) bool {
	return cell != "" && (cell[0] == '-' || cell[0] >= '0' && cell[0] <= '9') && json.Valid([]byte(cell))
}

// quote shows a cell in one line of bounded length.
func quote(cell string) string {
	const most = 40
	if len(cell) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(cell[cut]) {
			cut--
		}
		return strconv.Quote(cell[:cut]) + "…"
	}
	return strconv.Quote(cell)
}
