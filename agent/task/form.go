package task

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// form is how inputs become requests, and answers results. It doesn't change.
type form struct {
	method, path string
	format       string // of all inputs; empty: by their names
	mapping      *batch.Mapping
	rows         int    // of a request
	field        string // of the file, in a multipart request
	response     *batch.Response
	strict       bool
}

func newForm(spec *fleetv1.JobSpec, route *fleetv1.APIRoute) (_ *form, err error) {
	f := &form{
		method: cmp.Or(route.GetMethod(), http.MethodPost), path: cmp.Or(route.GetUrl(), "/"),
		format: cmp.Or(spec.GetInputFormat(), batch.DefaultFormat(spec.GetMapping() != nil, route.GetRequest().GetContentType())),
		rows:   max(int(spec.GetBatchRows()), 1), strict: spec.GetStrict(),
	}
	if f.format == batch.CSV {
		if f.mapping, err = batch.NewMapping(spec.GetMapping(), route.GetRequest().GetData()); err != nil {
			return nil, err
		}
	}
	if route.GetRequest().GetContentType() == batch.ContentForm && f.format == batch.File {
		schema, err := batch.SchemaJSON(route.GetRequest().GetData())
		if err != nil {
			return nil, err
		}
		if f.field, err = batch.FileField(schema); err != nil {
			return nil, err
		}
	}
	schema, err := batch.SchemaJSON(route.GetResponse().GetData())
	if err != nil {
		return nil, err
	}
	f.response, err = batch.NewResponse(route.GetResponse().GetContentType(), schema)
	return f, err
}

// formatOf answers the format of an input, or why it has none.
func (f *form) formatOf(source storage.URL) (string, error) {
	name := strings.ToLower(source.Key)
	switch {
	case f.format != "":
		return f.format, nil
	case strings.HasSuffix(name, ".jsonl"):
		return batch.JSONLines, nil
	case strings.HasSuffix(name, ".csv"):
		return "", errors.New("a CSV file needs a mapping, which the job hasn't: print one with drover job mapping, fill it in, and submit the job with it")
	}
	return batch.JSON, nil
}

// byRow tells whether the result has a line for each row.
func byRow(format string) bool { return format == batch.CSV || format == batch.JSONLines }

// request is what is sent at once.
type request struct {
	// rows are the numbers of its rows; empty where the input is one request.
	rows []int
	// fail is why it can't be sent: a fault of the item.
	fail error
	// body makes it anew for each time that it's sent; size is -1 when it isn't known.
	body func() (body io.Reader, contentType string, size int64, err error)
}

// row is the number of the first row.
func (r *request) row() int {
	if len(r.rows) == 0 {
		return 0
	}
	return r.rows[0]
}

func jsonBody(b []byte) func() (io.Reader, string, int64, error) {
	return func() (io.Reader, string, int64, error) {
		return bytes.NewReader(b), batch.ContentJSON, int64(len(b)), nil
	}
}

// whole answers the request that an input is.
func (f *form) whole(format string, source storage.URL, in input) *request {
	return &request{body: func() (io.Reader, string, int64, error) {
		again := in.again()
		switch {
		case format == batch.File && f.field != "":
			return batch.Multipart(f.field, path.Base(source.Key), again, in.Size())
		case format == batch.File:
			return again, "application/octet-stream", in.Size(), nil
		}
		return again, batch.ContentJSON, in.Size(), nil
	}}
}

// rowRequests yields the requests of an input's rows, in order. An error is of reading it.
func (f *form) rowRequests(format string, in io.Reader) iter.Seq2[request, error] {
	if format == batch.CSV {
		return f.csvRequests(in)
	}
	return lineRequests(in)
}

func lineRequests(in io.Reader) iter.Seq2[request, error] {
	return func(yield func(request, error) bool) {
		for lines := batch.NewRequests(in); ; {
			line, err := lines.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			r := request{rows: []int{line.Number}, fail: line.Err, body: jsonBody(bytes.Clone(line.Body))}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func (f *form) csvRequests(in io.Reader) iter.Seq2[request, error] {
	return func(yield func(request, error) bool) {
		var rows []batch.Row
		flush := func() bool {
			if len(rows) == 0 {
				return true
			}
			r := request{}
			for _, row := range rows {
				r.rows = append(r.rows, row.Number)
			}
			body, err := f.mapping.Request(nil, rows...)
			r.fail, r.body, rows = err, jsonBody(body), rows[:0]
			return yield(r, nil)
		}
		for src := batch.NewRows(in); ; {
			row, err := src.Next()
			switch {
			case errors.Is(err, io.EOF):
				flush()
				return
			case err != nil:
				yield(request{}, err)
				return
			}
			if fail := f.rowFault(row); fail != nil {
				if !yield(request{rows: []int{row.Number}, fail: fail}, nil) {
					return
				}
				continue
			}
			row.Fields = slices.Clone(row.Fields)
			if rows = append(rows, row); len(rows) == f.rows && !flush() {
				return
			}
		}
	}
}

// rowFault answers why a row can't be sent: one that can't doesn't cost those that would be sent with it.
func (f *form) rowFault(row batch.Row) error {
	if row.Err != nil || f.rows == 1 {
		return row.Err
	}
	_, err := f.mapping.Request(nil, row)
	return err
}

// result answers what an answer adds to the item's result: a line for each row, or the answer itself. An error is a fault
// of the item.
func (f *form) result(r *request, answer []byte) ([]byte, error) {
	if err := f.response.Check(answer, f.strict); err != nil || len(r.rows) == 0 {
		return answer, err
	}
	lines, err := f.response.Split(answer, len(r.rows))
	if err != nil {
		return nil, err
	}
	var out []byte
	for line := range lines {
		out = append(append(out, line...), '\n')
	}
	return out, nil
}

// rowFailures are the rows of an input that failed.
type rowFailures struct {
	rows  []int
	first int // the lowest, why it failed, and whose fault that is
	why   failure
	// The container exited again and again at one of them.
	crashed bool
}

func (r *rowFailures) add(rows []int, why failure) {
	if len(r.rows) == 0 || rows[0] < r.first {
		r.first, r.why = rows[0], why
	}
	r.rows = append(r.rows, rows...)
	r.crashed = r.crashed || why.crashed
}

// message names the rows, the first ones if there are many.
func (r *rowFailures) message() string {
	const named = 20
	slices.Sort(r.rows)
	var out strings.Builder
	for i, row := range r.rows {
		if i == named {
			fmt.Fprintf(&out, " and %d more", len(r.rows)-named)
			break
		}
		if i > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(&out, "%d", row)
	}
	noun := "rows"
	if len(r.rows) == 1 {
		noun = "row"
	}
	reason := r.why.message
	if prefix := fmt.Sprintf("row %d", r.first); !strings.HasPrefix(reason, prefix) {
		reason = prefix + ": " + reason
	}
	return fmt.Sprintf("%s %s failed: %s", noun, out.String(), reason)
}

// failure is why a request has no result.
type failure struct {
	fault   batch.Fault
	message string
	// The connection broke or wasn't made: the container may have exited.
	broken  bool
	crashed bool // it did, again and again
	// The model says that it has too much to do, or takes too long.
	overloaded bool
}

// requestFailure answers what is wrong when a request got no answer.
func requestFailure(err error, leaving bool) *failure {
	f := &failure{fault: batch.RequestFault(err, leaving), message: err.Error()}
	f.overloaded = errors.Is(err, context.DeadlineExceeded)
	f.broken = !f.overloaded && !errors.Is(err, errTooLarge) && !errors.Is(err, context.Canceled)
	return f
}
