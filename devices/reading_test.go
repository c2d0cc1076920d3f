package devices

import (
	"reflect"
	"testing"
	"time"
)

// full answers a sample in which every field is set.
func full(t *testing.T) Sample {
	t.Helper()
	var s Sample
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.String:
			f.SetString("id")
		case reflect.Struct:
			f.Set(reflect.ValueOf(time.Unix(1, 0)))
		default:
			t.Fatalf("field %s", v.Type().Field(i).Name)
		}
	}
	return s
}

// Every figure is of one group: what isn't asked for stays, what is asked for is replaced.
func TestEveryFigureIsOfAGroup(t *testing.T) {
	all := Usage | Condition | Processes
	for what := range all + 1 {
		r := Reading{Sample: full(t), ConditionTime: time.Unix(1, 0), ProcessesTime: time.Unix(1, 0)}
		r.merge(what, Sample{})
		kept := Reading{Sample: Sample{DeviceID: "id"}}
		kept.merge(all&^what, full(t))
		if !reflect.DeepEqual(r, kept) {
			t.Errorf("asked for %d: kept %+v, want %+v", what, r, kept)
		}
	}
	r := Reading{Sample: Sample{DeviceID: "id"}}
	if r.merge(all, full(t)); !reflect.DeepEqual(r.Sample, full(t)) {
		t.Errorf("got %+v", r)
	}
	if r.merge(0, Sample{}); !reflect.DeepEqual(r.Sample, full(t)) {
		t.Errorf("asked for nothing: %+v", r)
	}
}
