package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Algorithm begins the Authorization header of a signed request.
const Algorithm = "SDK-HMAC-SHA256"

// Headers of a signed request.
const (
	HeaderDate   = "X-Sdk-Date"
	HeaderDigest = "X-Sdk-Content-Sha256"
)

// Unsigned stands for the digest of a body that is not signed.
const Unsigned = "UNSIGNED-PAYLOAD"

// timeFormat of HeaderDate; UTC.
const timeFormat = "20060102T150405Z"

// field is a signed header: its name in lower case and its only value.
type field struct{ name, value string }

// canonical is the part of a request that is signed.
type canonical struct {
	method, path, query string
	fields              []field // by name
	digest              string  // of the body
}

// names of the signed headers, as Authorization and the canonical form have them.
func (c canonical) names() string {
	names := make([]string, len(c.fields))
	for i, f := range c.fields {
		names[i] = f.name
	}
	return strings.Join(names, ";")
}

// sign answers the signature, in hexadecimal.
func (c canonical) sign(secret string, at time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n", c.method, c.path, c.query)
	for _, f := range c.fields {
		fmt.Fprintf(&b, "%s:%s\n", f.name, strings.TrimSpace(f.value))
	}
	fmt.Fprintf(&b, "\n%s\n%s", c.names(), c.digest)
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s\n%s\n%x", Algorithm, at.UTC().Format(timeFormat), sha256.Sum256([]byte(b.String())))
	return hex.EncodeToString(mac.Sum(nil))
}

// canonicalPath takes a path as it is sent.
func canonicalPath(escaped string) (string, error) {
	segments := strings.Split(escaped, "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		switch {
		case err != nil:
			return "", fmt.Errorf("the path's segment %q can't be decoded", s)
		case plain == "." || plain == ".." || strings.Contains(plain, "/"):
			return "", fmt.Errorf("the path's segment %q could be taken for another path", s)
		}
		segments[i] = escape(plain)
	}
	path := strings.Join(segments, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path, nil
}

// canonicalQuery takes a query as it is sent.
func canonicalQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", errors.New("the query can't be decoded")
	}
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var pairs []string
	for _, k := range keys {
		slices.Sort(values[k])
		for _, v := range values[k] {
			pairs = append(pairs, escape(k)+"="+escape(v))
		}
	}
	return strings.Join(pairs, "&"), nil
}

const hexDigits = "0123456789ABCDEF"

// escape percent-encodes all but the unreserved characters of RFC 3986.
func escape(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 || !unreserved(byte(r)) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; unreserved(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0
}
