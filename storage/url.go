package storage

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Schemes of URLs. What s3 and obs stand for is configured.
const (
	File  = "file"
	S3    = "s3"
	OBS   = "obs"
	HTTPS = "https"
)

// URL names a file, an object, or a folder of them. Values are compared with ==. Only ParseURL, List and
// Join make them.
type URL struct {
	Scheme string
	Bucket string // the host of a link; empty for files
	Key    string // without the first "/"; of a link as it is in the URL, percent-encoded

	query string // of a signed link: a secret
}

// ParseURL reads a URL. All but links are taken literally: "%", "+", "?" and "#" are characters of the
// name. An error never holds the query of a link.
func ParseURL(s string) (URL, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return URL{}, fmt.Errorf("%w: %s has no scheme; write file:///…, s3://bucket/…, obs://bucket/… or https://…", ErrInvalid, shown(s))
	}
	if !utf8.ValidString(rest) || strings.ContainsFunc(rest, unicode.IsControl) {
		return URL{}, fmt.Errorf("%w: %s holds control characters or isn't UTF-8; rename the object", ErrInvalid, shown(s))
	}
	var u URL
	switch scheme {
	case HTTPS:
		return parseLink(s)
	case File:
		key, ok := strings.CutPrefix(rest, "/")
		if !ok {
			return URL{}, fmt.Errorf("%w: %s names a host; a file has three slashes: file:///directory/name", ErrInvalid, shown(s))
		}
		u = URL{Scheme: File, Key: key}
		if strings.Contains(key, "//") || strings.HasPrefix(key, "/") {
			return URL{}, fmt.Errorf("%w: %s has an empty segment; write single slashes", ErrInvalid, shown(s))
		}
	case S3, OBS:
		bucket, key, _ := strings.Cut(rest, "/")
		if err := s3utils.CheckValidBucketName(bucket); err != nil {
			return URL{}, fmt.Errorf("%w: %s has no valid bucket; write %s://bucket/key", ErrInvalid, shown(s), scheme)
		}
		u = URL{Scheme: scheme, Bucket: bucket, Key: key}
		if len(key) > 1024 {
			return URL{}, fmt.Errorf("%w: %s has a key of %d bytes; 1024 are allowed", ErrInvalid, shown(s), len(key))
		}
	default:
		return URL{}, fmt.Errorf("%w: %s has an unknown scheme; file, s3, obs and https are known", ErrInvalid, shown(s))
	}
	if dotted(u.Key) {
		return URL{}, fmt.Errorf("%w: %s has a segment \".\" or \"..\"; name the object itself", ErrInvalid, shown(s))
	}
	return u, nil
}

func parseLink(s string) (URL, error) {
	// What url.Parse says repeats its input, and with it the signature.
	p, err := url.Parse(s)
	host, _, _ := strings.Cut(strings.TrimPrefix(s, HTTPS+"://"), "/")
	if host, _, _ = strings.Cut(host, "?"); err != nil || p.Hostname() == "" || strings.Contains(host, "%") {
		return URL{}, fmt.Errorf("%w: %s is not a link; write https://host/path", ErrInvalid, shown(s))
	}
	if p.User != nil || strings.Contains(s, "#") {
		return URL{}, fmt.Errorf("%w: the link to %s has a user or a fragment; remove it", ErrInvalid, shown(HTTPS+"://"+p.Host))
	}
	u := URL{Scheme: HTTPS, Bucket: p.Host, Key: strings.TrimPrefix(p.EscapedPath(), "/"), query: p.RawQuery}
	if dotted(p.Path) {
		return URL{}, fmt.Errorf("%w: %s has a segment \".\" or \"..\"; name the object itself", ErrInvalid, u)
	}
	return u, nil
}

func dotted(key string) bool {
	return slices.ContainsFunc(strings.Split(key, "/"), func(s string) bool { return s == "." || s == ".." })
}

// shown is at most 200 characters of what somebody wrote, quoted, without what may be a secret: the user
// and the query of anything but our own schemes.
func shown(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != File && scheme != S3 && scheme != OBS {
		s, _, _ = strings.Cut(s, "?")
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			s = scheme + "://…" + rest[at:]
			s, _, _ = strings.Cut(s, "?")
		}
	}
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// String is the URL for logs and errors: without the query of a signed link.
func (u URL) String() string { return u.Scheme + "://" + u.Bucket + "/" + u.Key }

// Signed is the URL with the query of a signed link, which is a secret; ParseURL reads it back.
func (u URL) Signed() string {
	if u.query == "" {
		return u.String()
	}
	return u.String() + "?" + u.query
}

// Public is what an input was named by, as it stands in manifests of results and is shown: of a link, also of one that can't
// be parsed, without the query.
func Public(source string) string {
	if strings.HasPrefix(source, HTTPS+"://") {
		source, _, _ = strings.Cut(source, "?")
	}
	return source
}

// GoString hides the query from %#v too.
func (u URL) GoString() string { return fmt.Sprintf("storage.URL(%q)", u.String()) }

// IsFolder reports whether the URL can name a folder alone: it ends in "/", or has no key.
func (u URL) IsFolder() bool { return u.Key == "" || strings.HasSuffix(u.Key, "/") }

// Folder is the same place as a folder: with a "/" at the end.
func (u URL) Folder() URL {
	if !u.IsFolder() {
		u.Key += "/"
	}
	return u
}

// Join names something in this folder. It refuses what ParseURL refuses, and links.
func (u URL) Join(name string) (URL, error) {
	if u.Scheme == HTTPS {
		return URL{}, fmt.Errorf("%w: %s is a link, which has nothing in it", ErrInvalid, u)
	}
	return ParseURL(u.Folder().String() + name)
}
