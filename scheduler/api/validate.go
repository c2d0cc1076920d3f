package api

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Limits of what every object may carry.
const (
	maxName        = 64
	maxDescription = 100
	maxTags        = 64
	maxTagValue    = 256
	maxEnv         = 256
	maxEnvValue    = 32 << 10
	maxCommand     = 256
	maxArgument    = 8 << 10
	maxPath        = 1024
)

// name checks an object's name; dots says whether '.' is allowed too.
func (v *violations) name(field, s string, dots bool) {
	allowed := "letters, digits, '-' and '_'"
	if dots {
		allowed = "letters, digits, '-', '_' and '.'"
	}
	switch {
	case s == "":
		v.add(field, "is missing")
		return
	case len(s) > maxName && utf8.RuneCountInString(s) > maxName:
		v.add(field, "has %d characters, at most %d are allowed", utf8.RuneCountInString(s), maxName)
		return
	}
	for _, r := range s {
		if !isWord(r) && r != '-' && (r != '.' || !dots) {
			v.add(field, "%q has the character %q; only %s are allowed", s, r, allowed)
			return
		}
	}
	if strings.Trim(s, ".") == "" {
		v.add(field, "%q has nothing but dots", s)
	}
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
}

// meta checks what callers set of an object's meta. field is the path of the object.
func (v *violations) meta(field string, m *fleetv1.Meta, dots bool) {
	field += ".meta"
	v.name(field+".name", m.GetName(), dots)
	if m.GetProject() != "" {
		v.name(field+".project", m.GetProject(), false)
	}
	v.tags(field+".tags", m.GetTags())
}

func (v *violations) tags(field string, tags map[string]string) {
	if len(tags) > maxTags {
		v.add(field, "has %d entries, at most %d are allowed", len(tags), maxTags)
	}
	for k, value := range sorted(tags) {
		at := fmt.Sprintf("%s[%q]", field, k)
		if k == "" || utf8.RuneCountInString(k) > maxName {
			v.add(at, "the key must have 1–%d characters", maxName)
		}
		if n := utf8.RuneCountInString(value); n > maxTagValue {
			v.add(at, "the value has %d characters, at most %d are allowed", n, maxTagValue)
		}
		if hasControl(k) || hasControl(value) {
			v.add(at, "control characters are not allowed")
		}
	}
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func (v *violations) description(field, s string) {
	if n := utf8.RuneCountInString(s); n > maxDescription {
		v.add(field, "has %d characters, at most %d are allowed", n, maxDescription)
	}
}

// between checks a number; unit may be empty.
func (v *violations) between(field string, n, low, high int64) {
	if n < low || n > high {
		v.add(field, "%d is out of range %d–%d", n, low, high)
	}
}

// oneOf checks a word; it must be one of allowed.
func (v *violations) oneOf(field, s string, allowed ...string) {
	for _, a := range allowed {
		if s == a {
			return
		}
	}
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		quoted[i] = fmt.Sprintf("%q", a)
	}
	if s == "" {
		v.add(field, "is missing: it is one of %s", strings.Join(quoted, ", "))
		return
	}
	v.add(field, "%q is not one of %s", s, strings.Join(quoted, ", "))
}

func (v *violations) env(field string, env map[string]string, network string) {
	if len(env) > maxEnv {
		v.add(field, "has %d variables, at most %d are allowed", len(env), maxEnv)
	}
	for k, value := range sorted(env) {
		at := fmt.Sprintf("%s[%q]", field, k)
		switch {
		case !validEnvName(k):
			v.add(at, "a variable's name has letters, digits and '_' and does not start with a digit")
		case k == "PORT" && network == fleetv1.NetworkHost:
			v.add(at, "is set by the node when the network is %q", network)
		case len(value) > maxEnvValue:
			v.add(at, "the value has %d bytes, at most %d are allowed", len(value), maxEnvValue)
		case strings.ContainsRune(value, 0):
			v.add(at, "the value must not contain a zero byte")
		}
	}
}

func validEnvName(s string) bool {
	if s == "" || len(s) > 256 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) })
}

func (v *violations) command(field string, command []string) {
	if len(command) > maxCommand {
		v.add(field, "has %d words, at most %d are allowed", len(command), maxCommand)
		return
	}
	for i, word := range command {
		if len(word) > maxArgument || strings.ContainsRune(word, 0) || i == 0 && word == "" {
			v.add(fmt.Sprintf("%s[%d]", field, i), "a word has at most %d bytes, none of them zero, and the first is not empty", maxArgument)
		}
	}
}

func (v *violations) limits(field string, l *fleetv1.Limits) {
	if l == nil {
		return
	}
	v.between(field+".shm_bytes", l.GetShmBytes(), 0, 64<<40)
	v.between(field+".memlock_bytes", l.GetMemlockBytes(), -1, 64<<40)
	v.between(field+".nofile", l.GetNofile(), 0, 1<<30)
	v.between(field+".pids", l.GetPids(), 0, 4<<20)
}

// mounts checks the mounts of one version, but not whether nodes allow their sources.
func (v *violations) mounts(field string, mounts []*fleetv1.Mount) {
	seen := map[string]bool{}
	for i, m := range mounts {
		at := fmt.Sprintf("%s[%d]", field, i)
		v.mountSource(at+".source", m.GetSource())
		v.mountPath(at+".path", m.GetPath())
		if clean := path.Clean(m.GetPath()); seen[clean] {
			v.add(at+".path", "%s is mounted twice", clean)
		} else {
			seen[clean] = true
		}
	}
}

func (v *violations) mountSource(field, s string) {
	switch {
	case s == "":
		v.add(field, "is missing")
	case len(s) > maxPath:
		v.add(field, "has %d characters, at most %d are allowed", len(s), maxPath)
	case !path.IsAbs(s):
		v.add(field, "%q does not start with \"/\"", s)
	case hasParent(s):
		v.add(field, "%q must not contain \"..\"", s)
	case hasControl(s):
		v.add(field, "control characters are not allowed")
	}
}

func hasParent(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// systemDirs must not be mounted onto, nor anything below those with tree set.
func systemDirs() []struct {
	dir  string
	tree bool
} {
	return []struct {
		dir  string
		tree bool
	}{
		{"/proc", true}, {"/sys", true}, {"/dev", true}, {"/etc", true}, {"/run", true}, {"/var/run", true}, {"/boot", true},
		{"/bin", false}, {"/sbin", false}, {"/lib", false}, {"/lib64", false}, {"/usr", false}, {"/usr/bin", false},
		{"/usr/sbin", false}, {"/usr/lib", false}, {"/var", false}, {"/root", false}, {"/home", false}, {"/tmp", false},
	}
}

func (v *violations) mountPath(field, s string) {
	bad := strings.IndexFunc(s, func(r rune) bool { return !isWord(r) && !strings.ContainsRune(`/\-.`, r) })
	switch {
	case s == "":
		v.add(field, "is missing")
		return
	case utf8.RuneCountInString(s) > maxPath:
		v.add(field, "has %d characters, at most %d are allowed", utf8.RuneCountInString(s), maxPath)
		return
	case bad >= 0:
		r, _ := utf8.DecodeRuneInString(s[bad:])
		v.add(field, `%q has the character %q; only letters, digits, '/', '\', '_', '-' and '.' are allowed`, s, r)
		return
	case !path.IsAbs(s):
		v.add(field, "%q does not start with \"/\"", s)
		return
	case hasParent(s):
		v.add(field, "%q must not contain \"..\"", s)
		return
	}
	clean := path.Clean(s)
	if clean == "/" {
		v.add(field, "must not be \"/\"")
	}
	for _, d := range systemDirs() {
		if clean == d.dir || d.tree && strings.HasPrefix(clean, d.dir+"/") {
			v.add(field, "%q is the system directory %s or lies in it: choose another", s, d.dir)
			return
		}
	}
}
