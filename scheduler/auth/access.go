package auth

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// roleMember is what a method asks for that agents and schedulers call for themselves.
const roleMember = "member"

// access is what a method asks of its caller.
type access struct {
	role    string // the least; empty lets anybody in
	project string // path of the request's field that names the project; empty when it is about none
}

// accessTo is what the method asks for; one that is unknown, such as reflection, is for admins.
func (i *Interceptors) accessTo(method string) access {
	if strings.HasPrefix(method, healthPrefix) {
		return access{}
	}
	if a, ok := i.methods[method]; ok {
		return a
	}
	return access{role: fleetv1.RoleAdmin}
}

// Roles are those of callers who are no members, the mightiest first.
func Roles() []string {
	return []string{fleetv1.RoleAdmin, fleetv1.RoleOperator, fleetv1.RoleDeployer, fleetv1.RoleViewer, fleetv1.RoleLookup}
}

// covers says whether who has a role may do what asks for another one.
func covers(has, needs string) bool {
	switch has {
	case fleetv1.RoleAdmin:
		return slices.Contains(Roles(), needs)
	case fleetv1.RoleOperator:
		return needs == fleetv1.RoleOperator || needs == fleetv1.RoleViewer || needs == fleetv1.RoleLookup
	case fleetv1.RoleDeployer:
		return needs == fleetv1.RoleDeployer || needs == fleetv1.RoleViewer || needs == fleetv1.RoleLookup
	case fleetv1.RoleViewer:
		return needs == fleetv1.RoleViewer || needs == fleetv1.RoleLookup
	case fleetv1.RoleAgent, fleetv1.RoleScheduler:
		return needs == has || needs == roleMember
	}
	return has == needs && slices.Contains(Roles(), has)
}

// authorise answers the caller as in the project that the request names, or why he may not make it. What another
// project holds is absent, as is that project itself.
func authorise(c Caller, who, method string, a access, req any) (Caller, *refusal) {
	named := ""
	if m, ok := req.(proto.Message); ok && a.project != "" {
		named = textAt(m.ProtoReflect(), strings.Split(a.project, "."))
	}
	in, ok := c.In(named)
	if !ok {
		return c, &refusal{who, codes.NotFound, fmt.Sprintf("there is no project %q", named)}
	}
	if !covers(in.Role, a.role) {
		where := ""
		if a.project != "" {
			where = fmt.Sprintf(" in project %q", in.Project)
		}
		return c, &refusal{who, codes.PermissionDenied, fmt.Sprintf("%s has the role %q%s, which may not call %s: it needs the role %q", who, in.Role, where, method, a.role)}
	}
	return in, nil
}

// textAt is the string at a path of fields.
func textAt(m protoreflect.Message, path []string) string {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if len(path) == 1 {
		return m.Get(f).String()
	}
	return textAt(m.Get(f).Message(), path[1:])
}

// Everywhere says that the caller's role holds in every project.
func (c Caller) Everywhere() bool {
	return c.Role == fleetv1.RoleAdmin || c.Role == fleetv1.RoleOperator
}

// In is the caller as in a project, with his role there; ok is false where he has none. An empty name is his own project.
func (c Caller) In(project string) (_ Caller, ok bool) {
	if project == "" || project == c.Project {
		return c, true
	}
	if c.Everywhere() {
		c.Project = project
		return c, true
	}
	for scope := range strings.FieldsSeq(c.Scopes) {
		if name, role, _ := strings.Cut(scope, "="); name == project {
			c.Project, c.Role = name, role
			return c, true
		}
	}
	return c, false
}

// May says whether the caller may do in a project what asks for a role.
func (c Caller) May(role, project string) bool {
	in, ok := c.In(project)
	return ok && covers(in.Role, role)
}

// scopesText is Caller.Scopes.
func scopesText(scopes []*fleetv1.Scope) string {
	var all []string
	for _, s := range scopes {
		all = append(all, s.GetProject()+"="+s.GetRole())
	}
	return strings.Join(all, " ")
}
