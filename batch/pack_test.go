package batch

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

var someHeader = PackHeader{Job: "j", Task: "t-1", Attempt: "a1", From: 40}

func someOutcomes() ([]Outcome, []string) {
	results := []string{"{\"a\":1}", "", "line\n{\"n\":42}\n\x00\xff", "", ""}
	outcomes := make([]Outcome, len(results))
	for i, r := range results {
		item := someItem(someHeader.From + int64(i))
		outcomes[i] = Outcome{N: item.N, Source: item.Source, Name: item.Name, Result: Successful, Attempts: 1, Millis: 7, InputBytes: 10, Bytes: int64(len(r))}
	}
	outcomes[1].Result, outcomes[1].Message, outcomes[1].Fault, outcomes[1].Attempts = Failed, "the model answers 400", ItemFault, 2
	outcomes[4].Result, outcomes[4].Message, outcomes[4].Fault = Failed, "no answer in 40 s", ModelFault
	return outcomes, results
}

func somePack(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewPackWriter(&buf, someHeader)
	if err != nil {
		t.Fatal(err)
	}
	outcomes, results := someOutcomes()
	for i, o := range outcomes {
		if err := w.Write(o, strings.NewReader(results[i])); err != nil {
			t.Fatal(err)
		}
	}
	totals, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Totals{To: 45, Successful: 3, Failed: 2, InputBytes: 50, OutputBytes: int64(len(results[0]) + len(results[2]))}); totals != want {
		t.Errorf("totals %+v, want %+v", totals, want)
	}
	return buf.Bytes()
}

func TestPack(t *testing.T) {
	pack := somePack(t)
	for _, read := range []int{0, 3, 1 << 20} { // bytes of each result
		p, err := NewPackReader(bytes.NewReader(pack))
		if err != nil {
			t.Fatal(err)
		}
		if p.Header() != someHeader {
			t.Errorf("header %+v", p.Header())
		}
		outcomes, results := someOutcomes()
		for i, want := range outcomes {
			o, err := p.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(o, want) {
				t.Errorf("got %+v, want %+v", o, want)
			}
			got, err := io.ReadAll(io.LimitReader(p.Result(), int64(read)))
			if want := results[i][:min(read, len(results[i]))]; err != nil || string(got) != want {
				t.Errorf("result %q, %v, want %q", got, err, want)
			}
		}
		for range 2 {
			if _, err := p.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		}
		if got := p.Totals(); got.To != 45 || got.Successful != 3 {
			t.Errorf("totals %+v", got)
		}
	}
}

// readPack reads all of a pack.
func readPack(pack []byte) (n int, err error) {
	p, err := NewPackReader(bytes.NewReader(pack))
	for err == nil {
		if _, err = p.Next(); err == nil {
			n++
		}
	}
	if err == io.EOF { //nolint:errorlint // a wrapped io.EOF is no end
		err = nil
	}
	return n, err
}

func TestEveryCutAndEveryFlipIsFound(t *testing.T) {
	pack := somePack(t)
	for i := range pack {
		if _, err := readPack(pack[:i]); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
		damaged := bytes.Clone(pack)
		damaged[i] ^= 4
		if _, err := readPack(damaged); err == nil {
			t.Errorf("changed at %d: no error", i)
		}
	}
}

func TestDamagedPack(t *testing.T) {
	good := string(somePack(t))
	for _, c := range []struct{ name, pack, want string }{
		{"empty", "", "its header: unexpected EOF"},
		{"no pack", "GIF89a\n", "its header: not JSON"},
		{"another version", strings.Replace(good, `"pack":1`, `"pack":2`, 1), "its version is 2"},
		{"cut off in a result", good[:strings.Index(good, "line\n")+2], "of task t-1, attempt a1: the result of item 42: 14 bytes are missing"},
		{"cut off in a line", good[:strings.Index(good, `"n":42`)+2], "at item 42: unexpected EOF"},
		{"damaged result", strings.Replace(good, "{\"a\":1}", "{\"a\":2}", 1), "it is damaged"},
		{"item out of order", strings.Replace(good, `"n":41`, `"n":42`, 1), "item 42 where 41 belongs"},
		{"unknown result", strings.Replace(good, "SUCCESSFUL", "PARTIAL", 1), `item 40: result "PARTIAL"`},
		{"negative size", strings.Replace(good, `"bytes":7`, `"bytes":-7`, 1), "negative size"},
		{"totals", strings.Replace(good, `"to":45`, `"to":46`, 1), "doesn't agree with its items"},
		{"more behind it", good + "\n", "something follows its last line"},
		{"an empty line", strings.Replace(good, "{\"a\":1}", "{\"a\":1}\n", 1), "at item 41: not JSON: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readPack([]byte(c.pack))
			wantError(t, err, c.want)
		})
	}
}

func TestPackWriterRefuses(t *testing.T) {
	good := func() Outcome { return Outcome{N: 40, Result: Successful, Bytes: 2} }
	for _, c := range []struct {
		name   string
		change func(*Outcome)
		result string
		want   string
	}{
		{"number", func(o *Outcome) { o.N = 41 }, "ab", "item 41 where 40 belongs"},
		{"short result", func(*Outcome) {}, "a", "has not the 2 bytes"},
		{"long result", func(*Outcome) {}, "abc", "has not the 2 bytes"},
		{"error of a success", func(o *Outcome) { o.Message = "x" }, "ab", "SUCCESSFUL and has an error"},
		{"failure without a reason", func(o *Outcome) { o.Result, o.Bytes = Failed, 0 }, "", "has no error message"},
		{"failure with a result", func(o *Outcome) { o.Result, o.Message = Failed, "x" }, "ab", "or a result"},
		{"result", func(o *Outcome) { o.Result = "" }, "ab", `result "": want`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := NewPackWriter(io.Discard, someHeader)
			if err != nil {
				t.Fatal(err)
			}
			o := good()
			c.change(&o)
			wantError(t, w.Write(o, strings.NewReader(c.result)), c.want)
		})
	}
	w, err := NewPackWriter(io.Discard, someHeader)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, w.Write(good(), nil), "has not the 2 bytes")
	_, err = w.Close()
	wantError(t, err, "an earlier item could not be written")
}

func TestMessagesAreOneBoundedLine(t *testing.T) {
	if got := oneLine("a\nb\x00\xff"); got != "a b �" {
		t.Errorf("got %q", got)
	}
	if got := oneLine(strings.Repeat("错", 1000)); len(got) > maxMessage || !strings.HasSuffix(got, "错…") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func FuzzPack(f *testing.F) {
	f.Add(somePack(f))
	f.Add([]byte(`{"pack":1,"job":"","task":"","attempt":"","from":0}` + "\n"))
	f.Fuzz(func(t *testing.T, pack []byte) {
		if n, err := readPack(pack); err == nil && n > len(pack) {
			t.Errorf("%d items of %d bytes", n, len(pack))
		}
	})
}

func BenchmarkPack(b *testing.B) {
	const items = 1000
	result := bytes.Repeat([]byte("r"), 1000)
	o := Outcome{Source: "s3://bucket/prefix/img-0000001.png", Name: "img-0000001.png_result.txt", Result: Successful, Attempts: 1, Bytes: int64(len(result))}
	var pack bytes.Buffer
	write := func(b *testing.B) {
		pack.Reset()
		w, err := NewPackWriter(&pack, PackHeader{})
		for i := range int64(items) {
			o.N = i
			err = errors.Join(err, w.Write(o, bytes.NewReader(result)))
		}
		if _, closed := w.Close(); err != nil || closed != nil {
			b.Fatal(err, closed)
		}
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			write(b)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/items, "ns/item")
	})
	b.Run("read", func(b *testing.B) {
		write(b)
		for b.Loop() {
			if n, err := readPack(pack.Bytes()); n != items || err != nil {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/items, "ns/item")
	})
}
