package batch

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func somePart(t testing.TB, from int64, items int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewPartWriter(&buf, from)
	for i := range items {
		if err := w.Write(someItem(from + int64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || w.Items() != int64(items) {
		t.Fatalf("%d items, %v", w.Items(), err)
	}
	return buf.Bytes()
}

func someItem(n int64) Item {
	return Item{N: n, Source: fmt.Sprintf("s3://b/in/图%d.png?<&>", n), Size: n * 10, ETag: `"e"`, Name: fmt.Sprintf("图%d.png_result.txt", n)}
}

func TestPartRanges(t *testing.T) {
	part := somePart(t, 100, 50)
	for _, r := range [][2]int64{{100, 150}, {100, 101}, {149, 150}, {120, 130}, {150, 150}, {100, 100}} {
		items, err := ReadPart(bytes.NewReader(part), 100, r[0], r[1])
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(items)) != r[1]-r[0] {
			t.Errorf("%v: %d items", r, len(items))
		}
		for i, item := range items {
			if want := someItem(r[0] + int64(i)); !reflect.DeepEqual(item, want) {
				t.Errorf("%v: got %+v, want %+v", r, item, want)
			}
		}
	}
	if items, err := ReadPart(bytes.NewReader(somePart(t, 7, 0)), 7, 7, 7); len(items) != 0 || err != nil {
		t.Errorf("an empty part: %v, %v", items, err)
	}
}

func TestDamagedPart(t *testing.T) {
	good := string(somePart(t, 0, 3))
	lines := strings.SplitAfter(good, "\n")
	for _, c := range []struct{ name, part, want string }{
		{"cut off in a line", good[:len(good)/2], "at item 1: unexpected EOF"},
		{"cut off between lines", lines[0] + lines[1], "at item 2: unexpected EOF"},
		{"empty", "", "at item 0: unexpected EOF"},
		{"without the last line's end", strings.TrimSuffix(good, "\n"), "at item 3: unexpected EOF"},
		{"a changed item", strings.Replace(good, `"size":10`, `"size":11`, 1), "it is damaged: its CRC is "},
		{"an item missing", lines[0] + lines[2] + lines[3], "item 2 where 1 belongs"},
		{"last line of another part", lines[0] + lines[1] + lines[3], "it has 2 items, and its last line says 3"},
		{"more behind it", good + "x", "something follows its last line"},
		{"garbage", "\x00\xff\n", "at item 0: not JSON"},
		{"an empty line", "\n" + good, "at item 0: not JSON: unexpected EOF"},
		{"unknown field", strings.Replace(good, `"n"`, `"m"`, 1), `unknown field "m"`},
		{"endless line", strings.Repeat("x", 1<<20), "at item 0: a line is longer than 65536 bytes"},
		{"last line is garbage", lines[0] + `{"crc32c":` + "\n", "its last line: not JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			items, err := ReadPart(strings.NewReader(c.part), 0, 0, 3)
			wantError(t, err, c.want)
			if items != nil {
				t.Error("items of a damaged part")
			}
		})
	}
	_, err := ReadPart(strings.NewReader(good), 0, 1, 4)
	wantError(t, err, "item 3 is wanted, and it ends before 3")
	_, err = ReadPart(strings.NewReader(good), 5, 4, 5)
	wantError(t, err, "begins at 5")
}

func TestPartWriterRefuses(t *testing.T) {
	w := NewPartWriter(&bytes.Buffer{}, 5)
	wantError(t, w.Write(Item{N: 6}), "item 6 where 5 belongs")
	wantError(t, w.Write(Item{N: 5, Source: strings.Repeat("s", maxLine)}), "at most 65536 are allowed")
	for n := range int64(PartItems) {
		if err := w.Write(Item{N: 5 + n}); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, w.Write(Item{N: 5 + PartItems}), "begin another one")
	full := NewPartWriter(fullDisk{}, 0)
	if err := full.Write(Item{}); err != nil {
		t.Fatal(err)
	}
	wantError(t, full.Close(), "write an index part: no space")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, fmt.Errorf("no space") }

func FuzzPart(f *testing.F) {
	f.Add(somePart(f, 0, 3), int64(0), int64(1), int64(2))
	f.Add([]byte("{\"crc32c\":\"00000000\",\"items\":0}\n"), int64(0), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, part []byte, first, from, to int64) {
		items, err := ReadPart(bytes.NewReader(part), first, from, to)
		if err == nil && int64(len(items)) != to-from {
			t.Errorf("%d items of %d–%d", len(items), from, to)
		}
	})
}
