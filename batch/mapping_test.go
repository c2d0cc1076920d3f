package batch

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

const irisRequest = `{"type":"object","properties":{"data":{"type":"object","properties":{"req_data":{"type":"array","items":[
	{"type":"object","properties":{"input_1":{"type":"number"},"input_2":{"type":"number"},"input_3":{"type":"number"},"input_4":{"type":"number"}}}]}}}}}`

func row(fields ...string) Row { return Row{Number: 3, Line: 4, Fields: fields} }

func mustMapping(t testing.TB, mapping, request string) *Mapping {
	t.Helper()
	m, err := ParseMapping([]byte(mapping), []byte(request))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func irisMapping(t testing.TB) *Mapping {
	t.Helper()
	derived, err := Derive([]byte(irisRequest))
	if err != nil {
		t.Fatal(err)
	}
	return mustMapping(t, string(derived), irisRequest)
}

func TestDerivedMappingFillsTheRequest(t *testing.T) {
	m := irisMapping(t)
	got, err := m.Request(nil, row("5.1", "3.5", "1.4", "0.2"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"data":{"req_data":[{"input_1":5.1,"input_2":3.5,"input_3":1.4,"input_4":0.2}]}}`; string(got) != want {
		t.Errorf("request %s, want %s", got, want)
	}
	got, err = m.Request([]byte("x"), row("1", "2", "3", "4"), row("5", "6", "7", "8"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `x{"data":{"req_data":[{"input_1":1,"input_2":2,"input_3":3,"input_4":4},{"input_1":5,"input_2":6,"input_3":7,"input_4":8}]}}`; string(got) != want {
		t.Errorf("request of two rows %s, want %s", got, want)
	}
}

func TestDerive(t *testing.T) {
	for _, c := range []struct{ name, request, want, err string }{
		{"order of the document", `{"type":"object","properties":{"b":{"type":"string","index":9},"a":{"type":["integer","null"]},"c":{"type":"object"},"d":{"type":"boolean","maximum":1.50}}}`,
			`{"type":"object","properties":{"b":{"type":"string","index":0},"a":{"type":["integer","null"],"index":1},"c":{"type":"object"},"d":{"type":"boolean","maximum":1.50,"index":2}}}`, ""},
		{"type not said", `{"properties":{"index":{"type":"string"},"x":{"items":{"type":"number"}},"y":{"$ref":"#/x"}}}`,
			`{"properties":{"index":{"type":"string","index":0},"x":{"items":{"type":"number","index":1}},"y":{"$ref":"#/x"}}}`, ""},
		{"a leaf", `{"type":"string"}`, `{"type":"string","index":0}`, ""},
		{"<&>", `{"type":"string","description":"<é&\"\u0001>"}`, `{"type":"string","description":"<é&\"\u0001>","index":0}`, ""},
		{"no leaf", `{"type":"object","properties":{"f":{"type":"file"}}}`, "", "no string, number, integer or boolean"},
		{"not JSON", `{"type"`, "", "the model's request schema: not JSON: unexpected EOF"},
		{"empty", ``, "", "not JSON: unexpected EOF"},
		{"too deep", strings.Repeat("[", 100), "", "nested more than 64 deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Derive([]byte(c.request))
			wantError(t, err, c.err)
			if c.err != "" {
				return
			}
			n, err := parseJSON(got)
			if err != nil {
				t.Fatal(err)
			}
			if compact := string(n.append(nil)); compact != c.want {
				t.Errorf("got  %s\nwant %s", compact, c.want)
			}
		})
	}
}

// wantError holds err against a part of its text; "" means none.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("error %v", err)
	case want != "" && err == nil:
		t.Fatalf("no error, want %q", want)
	case want != "" && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
		t.Fatalf("error %q, want one line with %q", err, want)
	}
}

func TestBadMapping(t *testing.T) {
	const request = `{"type":"object","properties":{"a":{"type":"number"},"l":{"type":"array","items":{"type":"string"}},"o":{"type":"object","properties":{"x":{"type":"boolean"}}},"f":{"type":"file"}}}`
	of := func(properties string) string { return `{"type":"object","properties":{` + properties + `}}` }
	for _, c := range []struct{ name, mapping, want string }{
		{"negative", of(`"a":{"type":"number","index":-1}`), "mapping: at $.a: index -1 is negative"},
		{"fraction", of(`"a":{"type":"number","index":1.5}`), "at $.a: index 1.5 is no whole number"},
		{"string", of(`"a":{"type":"number","index":"1"}`), `at $.a: index "1" is no number`},
		{"null", of(`"a":{"type":"number","index":null}`), `at $.a: index null is no number`},
		{"huge", of(`"a":{"type":"number","index":99999999999}`), `at $.a: index 99999999999 is out of range`},
		{"on an object", of(`"o":{"type":"object","index":0,"properties":{}}`), `at $.o: an index on type "object"`},
		{"on an array", of(`"l":{"type":"array","index":0}`), `at $.l: an index on type "array"`},
		{"on a file", of(`"f":{"type":"file","index":0}`), `at $.f: an index on type "file"`},
		{"given twice", of(`"a":{"type":"number","index":0,"index":1}`), `mapping: at $.properties.a: property "index" is given twice`},
		{"other type", of(`"a":{"type":"string","index":0}`), `at $.a: type "string", where the model's request has "number"`},
		{"unknown type", of(`"a":{"type":"nmuber","index":0}`), `at $.a: type "nmuber", where`},
		{"no such property", of(`"b":{"type":"number","index":0}`), `at $.b: the model's request has no such property`},
		{"within an array", of(`"l":{"type":"array","items":{"type":"string","index":-2}}`), `at $.l[]: index -2 is negative`},
		{"several items", of(`"l":{"type":"array","items":[{"type":"string"},{"type":"string"}]}`), `at $.l: items is an array of several`},
		{"properties no object", `{"type":"object","properties":[]}`, `at $: properties is no object`},
		{"a schema that is none", of(`"a":true`), `at $.a: want a JSON Schema`},
		{"nothing has an index", of(`"a":{"type":"number"},"o":{"type":"object"},"l":{"type":"array","items":{"type":"string"}},"f":{"type":"file"}`), `no leaf has an index`},
		{"not JSON", `index`, `mapping: not JSON`},
		{"two values", `{} {}`, `mapping: not JSON: something follows`},
		{"no object", `[]`, `at $: want a JSON Schema`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseMapping([]byte(c.mapping), []byte(request))
			wantError(t, err, c.want)
		})
	}
	_, err := ParseMapping([]byte(`{"type":"decimal"}`), []byte(`{"type":"decimal"}`))
	wantError(t, err, `at $: unknown type "decimal"`)
}

func TestRequestConvertsByType(t *testing.T) {
	for _, c := range []struct{ kind, cell, want, err string }{
		{"number", "5.10", "5.10", ""},
		{"number", " 7 ", "7", ""},
		{"number", ".5", "0.5", ""},
		{"number", "+1.", "1", ""},
		{"number", "007", "7", ""},
		{"number", "1e400", "", `row 3, column 0: "1e400" is not of type number`},
		{"number", "abc", "", `row 3, column 0: "abc" is not of type number`},
		{"number", "NaN", "", `is not of type number`},
		{"number", "0x10", "", `is not of type number`},
		{"number", "1,5", "", `is not of type number`},
		{"number", "", "", `row 3, column 0: it is empty, and the model wants type number`},
		{"integer", "12345678901234567890123", "12345678901234567890123", ""},
		{"integer", "+07", "7", ""},
		{"integer", "-0", "-0", ""},
		{"integer", "1.0", "", `"1.0" is not of type integer`},
		{"integer", "1e3", "", `is not of type integer`},
		{"boolean", "True", "true", ""},
		{"boolean", "0", "false", ""},
		{"boolean", "yes", "", `"yes" is not of type boolean`},
		{"string", "", `""`, ""},
		{"string", ` "分类",<a>&` + "\n\t", `" \"分类\",<a>&\n\t"`, ""},
		{"number", strings.Repeat("汉", 100), "", `column 0: "汉汉汉汉汉汉汉汉汉汉汉汉汉"… is not`},
	} {
		m := mustMapping(t, `{"type":"`+c.kind+`","index":0}`, `{"type":"`+c.kind+`"}`)
		got, err := m.Request(nil, row(c.cell))
		wantError(t, err, c.err)
		var re *RowError
		if c.err != "" && !errors.As(err, &re) {
			t.Errorf("%q as %s: %T is no RowError", c.cell, c.kind, err)
		}
		if string(got) != c.want || c.err == "" && !json.Valid(got) {
			t.Errorf("%q as %s gives %s, want %s", c.cell, c.kind, got, c.want)
		}
	}
}

func TestRequestLeavesOutWhatHasNoIndex(t *testing.T) {
	const request = `{"type":"object","properties":{"a":{"type":"number"},"l":{"type":"array","items":{"type":"string"}},"o":{"type":"object","properties":{"x":{"type":"boolean"}}}}}`
	m := mustMapping(t, `{"type":"object","properties":{"a":{"type":"number","index":1},"l":{"type":"array","items":{"type":"string"}},"o":{"type":"object","properties":{"x":{"type":"boolean"}}}}}`, request)
	got, err := m.Request(nil, row("x", "2"))
	if err != nil || string(got) != `{"a":2}` {
		t.Errorf("got %s, %v", got, err)
	}
	_, err = m.Request(nil, row("x"))
	wantError(t, err, "row 3, column 1: there is no such column: the row has 1")
	_, err = m.Request(nil, Row{Number: 5, Err: &RowError{5, -1, "it has two columns"}})
	wantError(t, err, "row 5: it has two columns")
	wantError(t, m.CheckBatch(), "one row a request")
	_, err = m.Request(nil, row("x", "1"), row("x", "2"))
	wantError(t, err, "one row a request")
	_, err = m.Request(nil)
	wantError(t, err, "needs a row")
}

func TestBatchArray(t *testing.T) {
	const leaf, leaf1 = `{"type":"number","index":0}`, `{"type":"number","index":1}`
	object := func(properties string) string { return `{"type":"object","properties":{` + properties + `}}` }
	array := func(items string) string { return `{"type":"array","items":` + items + `}` }
	for _, c := range []struct{ schema, want string }{
		{array(leaf), `[1,3]`},
		{array(array(leaf)), `[[1],[3]]`},
		{object(`"l":` + array(object(`"x":`+leaf+`,"t":`+array(leaf1)))), `{"l":[{"x":1,"t":[2]},{"x":3,"t":[4]}]}`},
		{object(`"l":` + array(leaf) + `,"m":` + array(leaf1)), ``},
		{object(`"l":` + array(leaf) + `,"threshold":` + leaf1), ``},
	} {
		m := mustMapping(t, c.schema, c.schema)
		if (m.CheckBatch() == nil) != (c.want != "") {
			t.Errorf("%s: %v", c.schema, m.CheckBatch())
		}
		if got, err := m.Request(nil, row("1", "2"), row("3", "4")); string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.schema, got, err, c.want)
		}
	}
}

func TestStoredSchemasAreInNaturalOrder(t *testing.T) {
	request, mapping := &structpb.Struct{}, &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(`{"type":"object","properties":{"input_10":{"type":"number"},"input_2":{"type":"number"},"input_1":{"type":"number"}}}`), request); err != nil {
		t.Fatal(err)
	}
	data, err := SchemaJSON(request)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"properties":{"input_1":{"type":"number"},"input_2":{"type":"number"},"input_10":{"type":"number"}},"type":"object"}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	derived, err := Derive(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(derived, mapping); err != nil {
		t.Fatal(err)
	}
	m, err := NewMapping(mapping, request)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Request(nil, row("1", "2", "3")); string(got) != `{"input_1":1,"input_2":2,"input_10":3}` {
		t.Errorf("got %s, %v", got, err)
	}
	if data, err := SchemaJSON(nil); string(data) != "{}" || err != nil {
		t.Errorf("no schema is %s, %v", data, err)
	}
}

func TestCompareNames(t *testing.T) {
	names := []string{"x10", "x2", "x02b", "x", "b", "x1", "x02", "a9z", "a10", "ä"}
	slices.SortFunc(names, compareNames)
	if want := []string{"a9z", "a10", "b", "x", "x1", "x02", "x2", "x02b", "x10", "ä"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func FuzzMapping(f *testing.F) {
	f.Add(irisRequest, irisRequest, "1,2,3,4")
	f.Add(`{"type":"array","items":[{"type":"string","index":2}]}`, `{"items":{"type":"string"}}`, "a,b,\"\\")
	f.Add(`{"type":["integer","null"],"index":0}`, `{"type":"integer"}`, " +01")
	f.Fuzz(func(t *testing.T, mapping, request, cells string) {
		if derived, err := Derive([]byte(request)); err == nil {
			if _, err := parseJSON(derived); err != nil {
				t.Errorf("derived %s: %v", derived, err)
			}
		}
		m, err := ParseMapping([]byte(mapping), []byte(request))
		if err != nil {
			return
		}
		rows := []Row{row(strings.Split(cells, ",")...)}
		if m.CheckBatch() == nil {
			rows = append(rows, rows[0])
		}
		if got, err := m.Request(nil, rows...); err == nil && !json.Valid(got) {
			t.Errorf("request %s is no JSON", got)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	m := irisMapping(b)
	r := row("5.1", "3.5", "1.4", "0.2")
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = m.Request(buf[:0], r); err != nil {
			b.Fatal(err)
		}
	}
}
