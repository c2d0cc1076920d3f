package batch

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	resultSuffix = "_result.txt"
	// maxName is what file systems take, in bytes.
	maxName = 255
)

// Namer gives the result of each input of a job a file name, all of them distinct. The same inputs in the same order get
// the same names. It remembers 8 bytes of each name; two names that agree in these count as the same, so that one of them
// becomes longer than it need be. It isn't safe for concurrent use.
type Namer struct {
	taken map[[8]byte]struct{} // not of uint64, whose alignment would double its size
}

// NewNamer returns a Namer that has given no names.
func NewNamer() *Namer { return &Namer{taken: map[[8]byte]struct{}{}} }

// Take marks a name as given: a Namer goes on where an earlier one stopped after it was told all of that one's names.
func (n *Namer) Take(name string) { n.taken[nameHash(name)] = struct{}{} }

// Name returns the name of the result of an input, its URL: its base name and "_result.txt". When that has been given
// already, as much of the path as needed stands before it, "/" as "__"; then the bucket or host, then a number.
func (n *Namer) Name(source string) string {
	parts := nameParts(source)
	for i := len(parts) - 1; i >= 0; i-- {
		stem := strings.Join(parts[i:], "__")
		if name, ok := n.try(stem); ok {
			return name
		}
		if len(stem) > maxName { // more of the path would only change the hash: take all of it
			i = min(i, 1)
		}
	}
	for i := 2; ; i++ {
		if i == 10 { // one input many times: don't try every number again
			i += len(n.taken)
		}
		if name, ok := n.try(strings.Join(parts, "__") + "__" + strconv.Itoa(i)); ok {
			return name
		}
	}
}

func (n *Namer) try(stem string) (string, bool) {
	name := fileName(stem)
	h := nameHash(name)
	if _, ok := n.taken[h]; ok {
		return "", false
	}
	n.taken[h] = struct{}{}
	return name, true
}

func nameHash(name string) [8]byte {
	sum := sha256.Sum256([]byte(name))
	return [8]byte(sum[:8])
}

// fileName keeps the end of a stem that is too long, after a hash of the whole.
func fileName(stem string) string {
	if len(stem)+len(resultSuffix) <= maxName {
		return stem + resultSuffix
	}
	sum := sha256.Sum256([]byte(stem))
	mark := hex.EncodeToString(sum[:8]) + "_"
	from := len(stem) - (maxName - len(mark) - len(resultSuffix))
	for !utf8.RuneStart(stem[from]) {
		from++
	}
	return mark + stem[from:] + resultSuffix
}

// BaseName is the file name of an input, by its URL.
func BaseName(source string) string {
	parts := nameParts(source)
	return parts[len(parts)-1]
}

// nameParts splits a URL into bucket or host and the parts of its path, without what a file name can't have. The last one
// is the base name.
func nameParts(source string) []string {
	scheme, rest, _ := strings.Cut(source, "://")
	if scheme == "https" {
		if u, err := url.Parse(source); err == nil {
			rest = u.Host + u.Path
		}
	}
	parts := strings.FieldsFunc(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '_'
		}
		return r
	}, rest), func(r rune) bool { return r == '/' })
	if len(parts) == 0 {
		return []string{"input"}
	}
	return parts
}
