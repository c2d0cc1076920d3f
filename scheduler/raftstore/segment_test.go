package raftstore

import (
	"os"
	"reflect"
	"testing"
)

// FuzzSegment: what a segment holds is read without a panic, and gives a log without gaps.
func FuzzSegment(f *testing.F) {
	s, c := newLog(f)
	store(f, s, 1, 4)
	if err := s.DeleteRange(1, 2); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(c.path(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			h = s.tail().header // so that records are looked at
		}
		var r replay
		if err := r.begin(h); err != nil {
			t.Fatal(err)
		}
		if len(b) < segmentHeader {
			return
		}
		end, marked, err := r.read(&segment{header: h}, b)
		if err != nil {
			return
		}
		if marked > end || end > int64(len(b)) {
			t.Errorf("marked to %d, read to %d of %d", marked, end, len(b))
		}
		if r.Last != 0 && r.whole() == nil && uint64(len(r.places)) != r.Last-r.First+1 {
			t.Errorf("%d places of entries %v", len(r.places), r.bounds)
		}
		markAfter(b, h.Salt, end)
	})
}

// FuzzHead: a head is what was written, or refused.
func FuzzHead(f *testing.F) {
	good, err := head{ID: "id", First: 1, Last: 2, Stable: map[string]string{"CurrentTerm": "7"}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHead(b)
		if err != nil {
			return
		}
		again, err := h.encode()
		if err != nil {
			t.Skip() // longer when written by us
		}
		if h2, err := decodeHead(again); err != nil || !reflect.DeepEqual(h, h2) {
			t.Errorf("%+v became %+v: %v", h, h2, err)
		}
	})
}
