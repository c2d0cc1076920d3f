package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/drover-fleet/drover/devices"
)

func TestFrames(t *testing.T) {
	use := 0.5
	sent := reply{ID: 7, Samples: []devices.Sample{{DeviceID: "a", Utilisation: &use, Throttled: []string{}}}}
	var wire bytes.Buffer
	for range 2 {
		if err := writeFrame(&wire, sent); err != nil {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(wire.Bytes())
	for range 2 {
		var got reply
		if err := readFrame(&wire, &got); err != nil || !reflect.DeepEqual(got, sent) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	var got reply
	if err := readFrame(&wire, &got); err != io.EOF { //nolint:errorlint // it is promised itself
		t.Errorf("at the end: %v", err)
	}
	for n := 1; n < len(whole)/2; n++ {
		if err := readFrame(bytes.NewReader(whole[:n]), &got); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	if err := writeFrame(io.Discard, make([]byte, mostBytes)); !errors.Is(err, errFrame) {
		t.Errorf("a frame too long: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, body := range []string{"", "{}", `{"id":1,"devices":[{"ID":"a","NUMANode":1}]}`, `{"id":-1}`, "[]", `{"signal":{"Kind":"xid"}}`} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		for {
			var got reply
			if err := readFrame(r, &got); err != nil {
				return
			}
			var back bytes.Buffer
			if err := writeFrame(&back, got); err != nil {
				t.Fatalf("%+v was read and can't be written: %v", got, err)
			}
			var again reply
			if err := readFrame(&back, &again); err != nil || !reflect.DeepEqual(got.ID, again.ID) || len(got.Devices) != len(again.Devices) {
				t.Fatalf("%+v came back as %+v, %v", got, again, err)
			}
		}
	})
}
