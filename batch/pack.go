package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Results of an item, as a manifest says them.
const (
	Successful = "SUCCESSFUL"
	Failed     = "FAILED"
)

const (
	packVersion = 1
	// maxMessage is how much of an error message is kept, in bytes.
	maxMessage = 1024
)

// PackHeader says of what lease a pack holds the results.
type PackHeader struct {
	Job     string `json:"job"`
	Task    string `json:"task"`
	Attempt string `json:"attempt"`
	// From is the number of the first item.
	From int64 `json:"from"`
}

type packHeader struct {
	Version int `json:"pack"`
	PackHeader
}

// Outcome is how an item ended.
type Outcome struct {
	// N, Source and Name are the item's.
	N      int64  `json:"n"`
	Source string `json:"source"`
	Name   string `json:"name"`
	// Result is Successful or Failed.
	Result string `json:"result"`
	// Message is why it failed, in one line: set when, and only when, it did. A pack keeps its first 1,024 bytes.
	Message string `json:"error_message,omitempty"`
	Fault   Fault  `json:"fault,omitempty"`
	// Attempts is how many requests it took, Millis how long all of it took.
	Attempts int   `json:"attempts"`
	Millis   int64 `json:"millis"`
	// InputBytes is the size of the input, Bytes that of the result, which is 0 for a failed item.
	InputBytes int64 `json:"input_bytes"`
	Bytes      int64 `json:"bytes"`
}

// check tells what is wrong with an outcome where item n belongs.
func (o *Outcome) check(n int64) error {
	switch {
	case o.N != n:
		return fmt.Errorf("item %d where %d belongs", o.N, n)
	case o.Result == Successful && (o.Message != "" || o.Fault != NoFault):
		return fmt.Errorf("item %d is SUCCESSFUL and has an error", n)
	case o.Result == Failed && (o.Message == "" || o.Bytes != 0):
		return fmt.Errorf("item %d is FAILED and has no error message, or a result", n)
	case o.Result != Successful && o.Result != Failed:
		return fmt.Errorf("item %d: result %q: want SUCCESSFUL or FAILED", n, o.Result)
	case o.Bytes < 0 || o.InputBytes < 0:
		return fmt.Errorf("item %d has a negative size", n)
	}
	return nil
}

// Totals are the sums over a pack.
type Totals struct {
	// To is the number after the last item's.
	To          int64 `json:"to"`
	Successful  int64 `json:"successful"`
	Failed      int64 `json:"failed"`
	InputBytes  int64 `json:"input_bytes"`
	OutputBytes int64 `json:"output_bytes"`
}

func (t *Totals) add(o *Outcome) {
	t.To++
	if o.Result == Successful {
		t.Successful++
	} else {
		t.Failed++
	}
	t.InputBytes += o.InputBytes
	t.OutputBytes += o.Bytes
}

type packTrailer struct {
	Totals
	CRC string `json:"crc32c"`
}

// PackWriter writes the outcomes and results of a chunk of items into one object: a line with the header, for each item a
// line with its outcome and then its result as it is, and a last line with totals and a CRC. After an error the pack is
// worthless.
type PackWriter struct {
	w      *checkedWriter
	totals Totals
}

// NewPackWriter begins a pack.
func NewPackWriter(w io.Writer, h PackHeader) (*PackWriter, error) {
	p := &PackWriter{w: newCheckedWriter(w), totals: Totals{To: h.From}}
	if err := p.w.line(packHeader{packVersion, h}); err != nil {
		return nil, fmt.Errorf("write a pack: %w", err)
	}
	return p, nil
}

// Write adds an item, whose number has to follow the last one's. result has to give exactly o.Bytes bytes; it may be nil
// for none.
func (p *PackWriter) Write(o Outcome, result io.Reader) error {
	if err := o.check(p.totals.To); err != nil {
		return fmt.Errorf("write a pack: %w", err)
	}
	o.Message = oneLine(o.Message)
	if err := p.w.line(o); err != nil {
		return fmt.Errorf("write a pack: item %d: %w", o.N, err)
	}
	if result == nil {
		result = bytes.NewReader(nil)
	}
	// One byte more tells a result that is longer than announced.
	n, err := io.Copy(p.w, io.LimitReader(result, o.Bytes+1))
	if err == nil && n != o.Bytes {
		err = fmt.Errorf("its result has not the %d bytes that were announced", o.Bytes)
	}
	if err != nil {
		if p.w.err == nil {
			p.w.err = errors.New("an earlier item could not be written")
		}
		return fmt.Errorf("write a pack: item %d: %w", o.N, err)
	}
	p.totals.add(&o)
	return nil
}

// Close writes the last line and returns what it says. It doesn't close the writer beneath.
func (p *PackWriter) Close() (Totals, error) {
	if err := p.w.line(packTrailer{p.totals, sum(p.w.crc)}); err != nil {
		return Totals{}, fmt.Errorf("write a pack: %w", err)
	}
	if err := p.w.w.Flush(); err != nil {
		return Totals{}, fmt.Errorf("write a pack: %w", err)
	}
	return p.totals, nil
}

// oneLine is what is kept of a message: one line of valid UTF-8 and bounded length.
func oneLine(message string) string {
	message = string(bytes.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, []byte(message)))
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage - len("…")
	for !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + "…"
}

// PackReader reads a pack. What it returns is to be believed only when Next has returned io.EOF: whatever is cut off or
// damaged gives another error.
type PackReader struct {
	header PackHeader
	r      *checkedReader
	totals Totals
	result io.LimitedReader
	err    error
}

// NewPackReader reads the header of a pack.
func NewPackReader(r io.Reader) (*PackReader, error) {
	p := &PackReader{r: newCheckedReader(r)}
	line, _, err := p.r.line()
	if err != nil {
		return nil, fmt.Errorf("read a pack: its header: %w", err)
	}
	var h packHeader
	if err := decode(line, &h); err != nil {
		return nil, fmt.Errorf("read a pack: its header: %w", err)
	}
	if h.Version != packVersion {
		return nil, fmt.Errorf("read a pack: its version is %d, and only %d is known", h.Version, packVersion)
	}
	p.header, p.totals.To, p.result.R = h.PackHeader, h.From, p.r
	return p, nil
}

// Header is the pack's.
func (p *PackReader) Header() PackHeader { return p.header }

// Totals are those of the whole pack once Next has returned io.EOF, before that of what has been read.
func (p *PackReader) Totals() Totals { return p.totals }

// Result gives the result of the item that Next has returned last, until Next is called again; what isn't read of it is
// passed over.
func (p *PackReader) Result() io.Reader { return &p.result }

// Next returns the next outcome, or io.EOF after the last one of a pack that is whole.
func (p *PackReader) Next() (Outcome, error) {
	if p.err == nil {
		var o Outcome
		if o, p.err = p.next(); p.err == nil {
			return o, nil
		}
		if !errors.Is(p.err, io.EOF) {
			p.err = fmt.Errorf("read a pack of task %s, attempt %s: %w", p.header.Task, p.header.Attempt, p.err)
		}
	}
	return Outcome{}, p.err
}

func (p *PackReader) next() (Outcome, error) {
	if _, err := io.Copy(io.Discard, &p.result); err != nil {
		return Outcome{}, fmt.Errorf("the result of item %d: %w", p.totals.To-1, err)
	}
	if p.result.N > 0 {
		return Outcome{}, fmt.Errorf("the result of item %d: %d bytes are missing: %w", p.totals.To-1, p.result.N, io.ErrUnexpectedEOF)
	}
	n := p.totals.To
	line, crc, err := p.r.line()
	if err != nil {
		return Outcome{}, fmt.Errorf("at item %d: %w", n, err)
	}
	if bytes.HasPrefix(line, []byte(`{"to":`)) {
		if err := p.end(line, crc); err != nil {
			return Outcome{}, err
		}
		return Outcome{}, io.EOF
	}
	var o Outcome
	if err := decode(line, &o); err != nil {
		return Outcome{}, fmt.Errorf("at item %d: %w", n, err)
	}
	if err := o.check(n); err != nil {
		return Outcome{}, err
	}
	p.totals.add(&o)
	p.result.N = o.Bytes
	return o, nil
}

func (p *PackReader) end(line []byte, crc uint32) error {
	var t packTrailer
	if err := decode(line, &t); err != nil {
		return fmt.Errorf("its last line: %w", err)
	}
	if t.Totals != p.totals {
		return fmt.Errorf("its last line doesn't agree with its items: %+v, and they are %+v", t.Totals, p.totals)
	}
	if got := sum(crc); t.CRC != got {
		return fmt.Errorf("it is damaged: its CRC is %s, and its last line says %s", got, t.CRC)
	}
	return p.r.end()
}
