package signature

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Sign signs a client's request: it sets X-Sdk-Date and Authorization. Signed are host, the date and every header that the
// request has by now but Content-Type, which proxies change, and those with an underscore. A body is read through
// GetBody, which net/http sets for what is held in memory; a request whose body can't be read twice has to state
// its digest, or Unsigned, in X-Sdk-Content-Sha256.
func Sign(r *http.Request, access, secret string, at time.Time) error {
	c := canonical{method: r.Method}
	var err error
	if c.method == "" {
		c.method = http.MethodGet
	}
	if c.path, err = canonicalPath(r.URL.EscapedPath()); err != nil {
		return fmt.Errorf("sign a request: %w", err)
	}
	if c.query, err = canonicalQuery(r.URL.RawQuery); err != nil {
		return fmt.Errorf("sign a request: %w", err)
	}
	r.Header.Set(HeaderDate, at.UTC().Format(timeFormat))
	r.Header.Del("Authorization")
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if lower == "content-type" || strings.Contains(lower, "_") {
			continue
		}
		if len(values) != 1 {
			return fmt.Errorf("sign a request: the header %s has %d values, and only one can be signed", name, len(values))
		}
		c.fields = append(c.fields, field{lower, values[0]})
	}
	c.fields = append(c.fields, field{"host", cmp.Or(r.Host, r.URL.Host)})
	slices.SortFunc(c.fields, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	if c.digest = r.Header.Get(HeaderDigest); c.digest == "" {
		if c.digest, err = bodyDigest(r); err != nil {
			return fmt.Errorf("sign a request: %w", err)
		}
	}
	r.Header.Set("Authorization", fmt.Sprintf("%s Access=%s, SignedHeaders=%s, Signature=%s", Algorithm, access, c.names(), c.sign(secret, at)))
	return nil
}

func bodyDigest(r *http.Request) (string, error) {
	h := sha256.New()
	if r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			return "", fmt.Errorf("the body can be read only once: set %s to its digest or to %s", HeaderDigest, Unsigned)
		}
		body, err := r.GetBody()
		if err != nil {
			return "", fmt.Errorf("read the body: %w", err)
		}
		defer body.Close()
		if _, err := io.Copy(h, body); err != nil {
			return "", fmt.Errorf("read the body: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
