package batch

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Row is a row of a CSV file.
type Row struct {
	// Number counts rows from 1; Line is the line of the file on which it begins.
	Number, Line int
	Fields       []string
	// Err is why the row can't be used: a fault of the item, a *RowError.
	Err error
}

// Rows reads a CSV file row by row: UTF-8 with or without a byte order mark, LF or CRLF, commas, quotes as in RFC 4180.
// Empty lines are no rows. Every row is data, the first one too, and has to have as many columns as the first.
type Rows struct {
	csv     *csv.Reader
	number  int
	columns int
}

// NewRows reads rows from r.
func NewRows(r io.Reader) *Rows {
	c := csv.NewReader(skipBOM(r))
	c.FieldsPerRecord = -1 // a ragged row is only its own fault
	return &Rows{csv: c}
}

// Next returns the next row. io.EOF ends the file; another error is that of the reader. A row that can't be used has its
// reason in Err, and the next one follows.
func (r *Rows) Next() (Row, error) {
	fields, err := r.csv.Read()
	var bad *csv.ParseError
	if err != nil && !errors.As(err, &bad) {
		return Row{}, err
	}
	r.number++
	row := Row{Number: r.number, Fields: fields}
	if bad != nil {
		row.Line = bad.StartLine
		row.Err = &RowError{row.Number, -1, fmt.Sprintf("line %d: %s", bad.Line, quoteReason(bad.Err))}
		return row, nil //nolint:nilerr // it is in row.Err
	}
	row.Line, _ = r.csv.FieldPos(0)
	if r.columns == 0 {
		r.columns = len(fields)
	}
	if len(fields) != r.columns {
		row.Err = &RowError{row.Number, -1, fmt.Sprintf("line %d: it has %d columns, and the first row has %d", row.Line, len(fields), r.columns)}
		return row, nil
	}
	for i, f := range fields {
		if !utf8.ValidString(f) {
			row.Err = &RowError{row.Number, i, fmt.Sprintf("line %d: it is not UTF-8", row.Line)}
			break
		}
	}
	return row, nil
}

func quoteReason(err error) string {
	switch {
	case errors.Is(err, csv.ErrBareQuote):
		return `a " within a field that doesn't begin with one: quote the field and double the "`
	case errors.Is(err, csv.ErrQuote):
		return `a quoted field doesn't end as it should: double each " within it`
	}
	return err.Error()
}
