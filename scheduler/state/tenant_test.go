package state

import (
	"bytes"
	"slices"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func project(name, account string) *fleetv1.Project {
	return &fleetv1.Project{Meta: &fleetv1.Meta{Name: name, Account: account, Project: name}}
}

func TestDefaultsStandAlways(t *testing.T) {
	f := newFixture(t)
	v := f.View()
	if v.Account("default") == nil || v.Project("default").GetMeta().GetAccount() != "default" || v.User("default") == nil || v.Project("other") != nil {
		t.Errorf("account %v, project %v, user %v", v.Account("default"), v.Project("default"), v.User("default"))
	}
	f.must(writeCommand(1, Put(0, project("a", "default")), Put(0, project("z", "default"))))
	names := func() (all []string) {
		for _, p := range f.View().Projects() {
			all = append(all, p.GetMeta().GetName())
		}
		return all
	}
	if got := names(); !slices.Equal(got, []string{"a", "default", "z"}) {
		t.Errorf("projects %v", got)
	}
	stored := project("default", "default")
	stored.Meta.Id = "id"
	f.must(writeCommand(1, Put(0, stored)))
	if got := names(); !slices.Equal(got, []string{"a", "default", "z"}) || f.View().Project("default").GetMeta().GetId() != "id" {
		t.Errorf("projects %v, %v", got, f.View().Project("default"))
	}
}

func TestNeeds(t *testing.T) {
	f := newFixture(t)
	needing := func(kind, id string) *fleetv1.Command {
		c := writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: kind + id}}))
		c.GetWrite().Needs = []*fleetv1.ObjectRef{{Kind: kind, Id: id}}
		c.Introduced = Introduced(c)
		return c
	}
	if got := needing("project", "vision").GetIntroduced(); got != 4 {
		t.Errorf("it came with %d", got)
	}
	f.refused(needing("project", "vision"), RejectNotFound, "project vision does not exist")
	f.refused(needing("node", "default"), RejectNotFound, "node default does not exist")
	f.refused(needing("nonsense", "default"), RejectNotFound, "nonsense default")
	f.must(needing("project", "default"))
	f.must(writeCommand(1, Put(0, project("vision", "default"))))
	f.must(needing("project", "vision"))
}

func TestTenantsInUse(t *testing.T) {
	meta := func(name string) *fleetv1.Meta { return &fleetv1.Meta{Name: name, Account: "acme", Project: "vision"} }
	scopes := []*fleetv1.Scope{{Project: "vision", Role: fleetv1.RoleViewer}}
	for what, by := range map[string]*fleetv1.Mutation{
		"model m is in it":             Put(0, &fleetv1.Model{Meta: meta("m"), Spec: &fleetv1.ModelSpec{Version: "0.0.1"}}),
		"app a is in it":               Put(0, &fleetv1.App{Meta: meta("a")}),
		"it has a quota":               Put(0, &fleetv1.Quota{Meta: meta("vision")}),
		"token t is for it":            Put(0, &fleetv1.Token{Meta: meta("t")}),
		"token of-two is for it":       Put(0, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "of-two", Project: "default"}, Scopes: scopes}),
		"key k is for it":              Put(0, &fleetv1.Key{Meta: &fleetv1.Meta{Name: "k"}, Scopes: scopes}),
		"project vision belongs to it": nil,
		"user ann belongs to it":       Put(0, &fleetv1.User{Meta: meta("ann")}),
		"pool own belongs to it":       Put(0, &fleetv1.Pool{Meta: meta("own"), Spec: &fleetv1.PoolSpec{Account: "acme"}}),
		"token of-ann is of it":        Put(0, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "of-ann"}, User: "ann"}),
		"key of-ann is of it":          Put(0, &fleetv1.Key{Meta: &fleetv1.Meta{Name: "of-ann"}, User: "ann"}),
		"nothing, and it is deleted":   nil,
	} {
		f := newFixture(t)
		f.must(writeCommand(1, Put(0, &fleetv1.Account{Meta: &fleetv1.Meta{Name: "acme"}})))
		doomed := Key{fleetv1.KindAccount, "acme"}
		switch {
		case by == nil && what == "project vision belongs to it":
			by = Put(0, project("vision", "acme"))
		case by == nil:
			f.must(writeCommand(1, Delete(f.View().Account("acme").GetMeta().GetRevision(), doomed)))
			continue
		case by.GetPut().GetUser() != nil || by.GetPut().GetPool() != nil:
		case by.GetPut().GetToken().GetUser() != "" || by.GetPut().GetKey().GetUser() != "":
			doomed = Key{fleetv1.KindUser, "ann"}
			f.must(writeCommand(1, Put(0, &fleetv1.User{Meta: meta("ann")})))
		default:
			doomed = Key{fleetv1.KindProject, "vision"}
			f.must(writeCommand(1, Put(0, project("vision", "acme"))))
		}
		f.must(writeCommand(1, by))
		f.refused(writeCommand(1, Delete(metaOf(f.view().t.object(doomed)).GetRevision(), doomed)), RejectInUse, what)
	}
}

func TestAppsAreFound(t *testing.T) {
	f := newFixture(t)
	code := func(s string) *fleetv1.AppCode { return &fleetv1.AppCode{Id: s, Sha256: []byte(s)} }
	app := &fleetv1.App{Meta: &fleetv1.Meta{Name: "a", Project: "p"}, AppKey: "key", Codes: []*fleetv1.AppCode{code("one"), code("two")}}
	f.must(writeCommand(1, Put(0, app)))
	check := func(v ReadView, found, lost string) {
		t.Helper()
		for _, by := range []string{"key", found} {
			if v.AppByKey(by).GetMeta().GetName() != "a" || v.AppByCode([]byte(by)) == nil {
				t.Errorf("%s: not found", by)
			}
		}
		if v.AppByCode([]byte(lost)) != nil || v.AppByKey("") != nil || v.AppByCode(nil) != nil {
			t.Errorf("%s, or nothing, is found", lost)
		}
	}
	app = &fleetv1.App{Meta: &fleetv1.Meta{Name: "a", Project: "p"}, AppKey: "key", Codes: []*fleetv1.AppCode{code("two")}}
	f.must(writeCommand(2, Put(f.View().App("p", "a").GetMeta().GetRevision(), app)))
	check(f.View(), "two", "one")
	var b bytes.Buffer
	if _, err := f.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	restored := New()
	if err := restored.Restore(&b); err != nil {
		t.Fatal(err)
	}
	check(restored.View(), "two", "one")
	f.must(writeCommand(3, Delete(f.View().App("p", "a").GetMeta().GetRevision(), AppKey("p", "a"))))
	if f.View().AppByKey("key") != nil || f.View().AppByCode([]byte("two")) != nil || len(f.View().Apps("p")) != 0 {
		t.Error("a deleted app is found")
	}
}
