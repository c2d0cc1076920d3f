package state

import (
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// standing says that a key is of what exists always.
func standing(k Key) bool {
	return k.Key == fleetv1.Default && (k.Kind == fleetv1.KindAccount || k.Kind == fleetv1.KindProject || k.Kind == fleetv1.KindUser)
}

// withDefault is the named object, or what stands for it when it is called "default" and not stored.
func withDefault[T any](stored *T, name string, stand func(*fleetv1.Meta) *T) *T {
	if stored != nil || name != fleetv1.Default {
		return stored
	}
	return stand(&fleetv1.Meta{Name: fleetv1.Default, Account: fleetv1.Default, Project: fleetv1.Default})
}

// listDefault is list with what stands for an object called "default" that isn't stored.
func listDefault[T any](objects *table[*fleetv1.Object], unwrap func(*fleetv1.Object) *T, stand *T) []*T {
	all := list(objects, unwrap, "")
	if _, stored := objects.Get(fleetv1.Default); stored {
		return all
	}
	before := 0
	objects.Scan(func(key string, _ *fleetv1.Object) bool {
		if key < fleetv1.Default {
			before++
		}
		return key < fleetv1.Default
	})
	return slices.Insert(all, before, stand)
}

func (v view) Account(name string) *fleetv1.Account {
	return withDefault(get(v.t.accounts, name).GetAccount(), name, func(m *fleetv1.Meta) *fleetv1.Account { return &fleetv1.Account{Meta: m} })
}

func (v view) Accounts() []*fleetv1.Account {
	return listDefault(v.t.accounts, (*fleetv1.Object).GetAccount, v.Account(fleetv1.Default))
}

func (v view) Project(name string) *fleetv1.Project {
	return withDefault(get(v.t.projects, name).GetProject(), name, func(m *fleetv1.Meta) *fleetv1.Project { return &fleetv1.Project{Meta: m} })
}

func (v view) Projects() []*fleetv1.Project {
	return listDefault(v.t.projects, (*fleetv1.Object).GetProject, v.Project(fleetv1.Default))
}

func (v view) User(name string) *fleetv1.User {
	return withDefault(get(v.t.users, name).GetUser(), name, func(m *fleetv1.Meta) *fleetv1.User { return &fleetv1.User{Meta: m} })
}

func (v view) Users() []*fleetv1.User {
	return listDefault(v.t.users, (*fleetv1.Object).GetUser, v.User(fleetv1.Default))
}

func (v view) Key(access string) *fleetv1.Key { return get(v.t.keys, access).GetKey() }

func (v view) Keys() []*fleetv1.Key { return list(v.t.keys, (*fleetv1.Object).GetKey, "") }

func (v view) App(project, name string) *fleetv1.App {
	return v.AppAt(AppKey(project, name))
}

func (v view) AppAt(key Key) *fleetv1.App { return get(v.t.apps, key.Key).GetApp() }

func (v view) Apps(project string) []*fleetv1.App {
	return list(v.t.apps, (*fleetv1.Object).GetApp, inProject(project))
}

func (v view) AppByKey(appKey string) *fleetv1.App {
	if key, ok := v.t.appKeys.Get(appKey); ok {
		return get(v.t.apps, key).GetApp()
	}
	return nil
}

func (v view) AppByCode(sha256 []byte) *fleetv1.App { return v.AppByKey(string(sha256)) }

// referApp keeps up the ways to find an app by what it shows.
func (t *tables) referApp(key string, before, after *fleetv1.App) {
	refer(t.appKeys, key, before.GetAppKey(), after.GetAppKey())
	for _, c := range before.GetCodes() {
		refer(t.appKeys, key, string(c.GetSha256()), "")
	}
	for _, c := range after.GetCodes() {
		refer(t.appKeys, key, "", string(c.GetSha256()))
	}
}

// userOfTenant says who refers to an account, a project or a user, or "".
func (a *applying) userOfTenant(o *fleetv1.Object) string {
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Account:
		return UserOfAccount(a, k.Account.GetMeta().GetName())
	case *fleetv1.Object_Project:
		return UserOfProject(a, k.Project.GetMeta().GetName())
	case *fleetv1.Object_User:
		name := k.User.GetMeta().GetName()
		for _, t := range a.Tokens() {
			if t.GetUser() == name {
				return "token " + t.GetMeta().GetName() + " is of it"
			}
		}
		for _, key := range a.Keys() {
			if key.GetUser() == name {
				return "key " + key.GetMeta().GetName() + " is of it"
			}
		}
	}
	return ""
}

// UserOfAccount says what keeps an account from being deleted, or "".
func UserOfAccount(v ReadView, name string) string {
	for _, p := range v.Projects() {
		if p.GetMeta().GetAccount() == name {
			return "project " + p.GetMeta().GetName() + " belongs to it"
		}
	}
	for _, u := range v.Users() {
		if u.GetMeta().GetAccount() == name {
			return "user " + u.GetMeta().GetName() + " belongs to it"
		}
	}
	for _, p := range v.Pools() {
		if p.GetSpec().GetAccount() == name {
			return "pool " + p.GetMeta().GetName() + " belongs to it"
		}
	}
	return ""
}

// UserOfProject says what keeps a project from being deleted, or "".
func UserOfProject(v ReadView, name string) string {
	if s := v.Services(name); len(s) > 0 {
		return "service " + s[0].GetMeta().GetName() + " is in it"
	}
	if m := v.Models(name, ""); len(m) > 0 {
		return "model " + m[0].GetMeta().GetName() + " is in it"
	}
	if s := v.Apps(name); len(s) > 0 {
		return "app " + s[0].GetMeta().GetName() + " is in it"
	}
	if j := v.Jobs(name); len(j) > 0 {
		return "job " + j[0].GetMeta().GetName() + " is in it"
	}
	if k := v.StorageKeys(name); len(k) > 0 {
		return "it has a key for " + k[0].GetMeta().GetName() + " storage"
	}
	if v.Quota(name) != nil {
		return "it has a quota"
	}
	names := func(s *fleetv1.Scope) bool { return s.GetProject() == name }
	for _, t := range v.Tokens() {
		if t.GetMeta().GetProject() == name || slices.ContainsFunc(t.GetScopes(), names) {
			return "token " + t.GetMeta().GetName() + " is for it"
		}
	}
	for _, k := range v.Keys() {
		if slices.ContainsFunc(k.GetScopes(), names) {
			return "key " + k.GetMeta().GetName() + " is for it"
		}
	}
	return ""
}
