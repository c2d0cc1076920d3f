package events

import (
	"container/list"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// The last recentEvents of each of the recentObjects that had one last are kept in memory.
const (
	recentEvents  = 50
	recentObjects = 10_000
)

type objectKey struct{ kind, id string }

// recents is guarded by its store's lock.
type recents struct {
	objects map[objectKey]*list.Element
	names   map[objectKey]objectKey // by name: the object of that name which had an event last
	age     *list.List              // of *recentObject, latest event first
}

type recentObject struct {
	key, name objectKey
	events    []*fleetv1.Event
}

func newRecents() recents {
	return recents{objects: map[objectKey]*list.Element{}, names: map[objectKey]objectKey{}, age: list.New()}
}

func (r *recents) add(e *fleetv1.Event) {
	for _, ref := range e.GetObjects() {
		key, name := objectKey{ref.GetKind(), ref.GetId()}, objectKey{ref.GetKind(), ref.GetName()}
		if key.id == "" {
			key = name
		}
		el, ok := r.objects[key]
		if !ok {
			el = r.age.PushFront(&recentObject{key: key, name: name})
			r.objects[key] = el
		}
		r.age.MoveToFront(el)
		r.names[name] = key
		o := el.Value.(*recentObject)
		if len(o.events) == recentEvents {
			o.events = append(make([]*fleetv1.Event, 0, recentEvents), o.events[1:]...)
		}
		o.events = append(o.events, e)
	}
	for len(r.objects) > recentObjects {
		o := r.age.Remove(r.age.Back()).(*recentObject)
		delete(r.objects, o.key)
		if r.names[o.name] == o.key {
			delete(r.names, o.name)
		}
	}
}

func (r *recents) of(kind, nameOrID string) []*fleetv1.Event {
	key := objectKey{kind, nameOrID}
	el, ok := r.objects[key]
	if !ok {
		if el, ok = r.objects[r.names[key]]; !ok {
			return nil
		}
	}
	return append([]*fleetv1.Event(nil), el.Value.(*recentObject).events...)
}
