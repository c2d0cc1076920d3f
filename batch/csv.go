package batch

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Row is a row of a CSV file.
type Row struct {
	// Number counts rows from 1; Line is the line of the file on which it begins.
	Number, Line int
	// Fields are valid until the next row is read; their texts stay.
	Fields []string
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
		return row, nil
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

// FailedRows collects why rows failed, for the error message of their file.
type FailedRows struct {
	failed int
	shown  []string
}

// Add takes the error of a row, which has to name it.
func (f *FailedRows) Add(err error) {
	const most = 10
	if f.failed++; f.failed <= most {
		f.shown = append(f.shown, err.Error())
	}
}

// Failed is how many there are.
func (f *FailedRows) Failed() int { return f.failed }

// Message names the first of them; rows is how many the file has.
func (f *FailedRows) Message(rows int) string {
	m := fmt.Sprintf("%d of %d rows failed: %s", f.failed, rows, strings.Join(f.shown, "; "))
	if more := f.failed - len(f.shown); more > 0 {
		m += fmt.Sprintf("; and %d more", more)
	}
	return m
}
