package signature

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Window is how far X-Sdk-Date may be from the verifier's clock, either way.
const Window = 15 * time.Minute

// ErrMismatch is the error of a signature that is not that of the request under the secret, and of an access key that
// nobody has.
var ErrMismatch = errors.New("the access key is unknown, or the signature is not that of this request under its secret")

// ErrUnsigned is the error of a signature that leaves the body out where that is not allowed.
var ErrUnsigned = fmt.Errorf("%s is %s, which is not allowed here: sign the body", HeaderDigest, Unsigned)

// maxSigned is how many headers may be signed.
const maxSigned = 64

// Signed is the claim of a request that it was signed; nothing of it has been verified.
type Signed struct {
	Access string // key whose secret it is to be verified with
	Time   time.Time

	canonical canonical
	signature string
}

// Is says whether the request is to be verified by its signature.
func Is(r *http.Request) bool {
	a := r.Header["Authorization"]
	return len(a) > 0 && (a[0] == Algorithm || strings.HasPrefix(a[0], Algorithm+" "))
}

// Parse reads the claim out of a request that a server has received. Errors say what is malformed.
func Parse(r *http.Request) (*Signed, error) {
	access, names, signature, err := parseAuthorization(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	s := &Signed{Access: access, signature: signature, canonical: canonical{method: r.Method}}
	date, err := single(r, HeaderDate)
	if err != nil {
		return nil, err
	}
	if s.Time, err = time.Parse(timeFormat, date); err != nil {
		return nil, fmt.Errorf("%s %q is not of the form %s, in UTC", HeaderDate, date, timeFormat)
	}
	if s.canonical.path, err = canonicalPath(r.URL.EscapedPath()); err != nil {
		return nil, err
	}
	if s.canonical.query, err = canonicalQuery(r.URL.RawQuery); err != nil {
		return nil, err
	}
	for _, name := range names {
		f := field{name: name, value: r.Host}
		if name != "host" { // which net/http keeps apart
			if f.value, err = single(r, name); err != nil {
				return nil, err
			}
		}
		s.canonical.fields = append(s.canonical.fields, f)
	}
	if len(r.Header.Values(HeaderDigest)) > 0 {
		if s.canonical.digest, err = single(r, HeaderDigest); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// single is the value of a header that has to be there once.
func single(r *http.Request, name string) (string, error) {
	values := r.Header.Values(name)
	if len(values) != 1 {
		return "", fmt.Errorf("the header %s comes %d times; a signed request has it once", name, len(values))
	}
	return values[0], nil
}

// parseAuthorization takes "SDK-HMAC-SHA256 Access=…, SignedHeaders=a;b, Signature=…" apart.
func parseAuthorization(headers []string) (access string, names []string, signature string, err error) {
	if len(headers) != 1 {
		return "", nil, "", fmt.Errorf("the header Authorization comes %d times; a signed request has it once", len(headers))
	}
	rest, ok := strings.CutPrefix(headers[0], Algorithm+" ")
	if !ok {
		return "", nil, "", fmt.Errorf("the header Authorization doesn't begin with %s", Algorithm)
	}
	parts := strings.Split(rest, ",")
	if len(parts) != 3 {
		return "", nil, "", errors.New("the header Authorization needs Access=…, SignedHeaders=… and Signature=…, separated by commas")
	}
	var values [3]string
	for i, key := range [...]string{"Access=", "SignedHeaders=", "Signature="} {
		if values[i], ok = strings.CutPrefix(strings.TrimSpace(parts[i]), key); !ok || values[i] == "" {
			return "", nil, "", fmt.Errorf("the header Authorization has no %s… where it belongs", key)
		}
	}
	names = strings.Split(values[1], ";")
	switch {
	case len(names) > maxSigned:
		err = fmt.Errorf("%d headers are signed, at most %d are allowed", len(names), maxSigned)
	case !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names):
		err = errors.New("SignedHeaders are not sorted, or name a header twice")
	case slices.ContainsFunc(names, func(n string) bool { return n == "" || n != strings.ToLower(n) }):
		err = errors.New("SignedHeaders are not in lower case")
	case !slices.Contains(names, "host") || !slices.Contains(names, strings.ToLower(HeaderDate)):
		err = errors.New("host and x-sdk-date have to be among SignedHeaders")
	}
	return values[0], names, values[2], err
}

// Verifier is what a signature is verified against.
type Verifier struct {
	// Secret of the access key; empty when nobody has that key.
	Secret string
	// Body of the request; nil when it is Unsigned anyway, which may be asked first (Stated).
	Body []byte
	// AllowUnsigned believes a body that is not signed.
	AllowUnsigned bool
	Now           time.Time
}

// Stated is the value of X-Sdk-Content-Sha256, or empty.
func (s *Signed) Stated() string { return s.canonical.digest }

// Verify answers nil when the request is what the owner of the secret has signed, no more than Window ago or ahead.
func (s *Signed) Verify(v Verifier) error {
	if d := v.Now.Sub(s.Time); d > Window || d < -Window {
		return fmt.Errorf("the request was signed at %s, which is more than %v from this server's %s: check the client's clock, and sign each request anew",
			s.Time.Format(time.RFC3339), Window, v.Now.UTC().Format(time.RFC3339))
	}
	c := s.canonical
	switch {
	case c.digest == Unsigned && !v.AllowUnsigned:
		return ErrUnsigned
	case c.digest != Unsigned:
		sum := sha256.Sum256(v.Body)
		actual := hex.EncodeToString(sum[:])
		if c.digest != "" && subtle.ConstantTimeCompare([]byte(c.digest), []byte(actual)) != 1 {
			return fmt.Errorf("%s is not the SHA-256 of the body in hexadecimal", HeaderDigest)
		}
		c.digest = actual
	}
	same := subtle.ConstantTimeCompare([]byte(c.sign(v.Secret, s.Time)), []byte(s.signature)) == 1
	if !same || v.Secret == "" {
		return ErrMismatch
	}
	return nil
}
