package storage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// Kinds of errors: every error of this package wraps one of them, unless the context ended.
var (
	ErrNotFound  = errors.New("not found")
	ErrChanged   = errors.New("changed")
	ErrTooLarge  = errors.New("too large")
	ErrDenied    = errors.New("access denied")
	ErrFull      = errors.New("storage full")
	ErrTemporary = errors.New("storage unavailable") // the same call may succeed later
	ErrInvalid   = errors.New("invalid")             // the same call fails again
)

// ErrForbidden is the ErrDenied of what the operator, or this package, lets nobody reach: it lasts until the configuration
// is another one.
var ErrForbidden = fmt.Errorf("%w for good", ErrDenied)

// Error says on one line what was done to which URL, and why it failed. It never holds a signature, a
// key, or what a server answered in full.
type Error struct {
	Op   string // list, read, stat, write or delete
	URL  URL
	Kind error // one of the Err… values, or the context's error
	Why  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", e.Op, shown(e.URL.String()), e.Kind, e.Why)
}

// Unwrap lets errors.Is find the kind.
func (e *Error) Unwrap() error { return e.Kind }

// fault is an error before it is known what it was about.
type fault struct {
	kind error
	why  string
}

func (f *fault) Error() string { return f.why }

func faultf(kind error, format string, args ...any) error {
	return &fault{kind, fmt.Sprintf(format, args...)}
}

// explain gives err its kind and a line. The context's end goes before what it caused.
func explain(ctx context.Context, op string, u URL, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return &Error{op, u, ended, "the call was ended by its caller"}
	}
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	var known *fault
	if errors.As(err, &known) {
		return &Error{op, u, known.kind, known.why}
	}
	known = kindOf(u, err)
	return &Error{op, u, known.kind, known.why}
}

func kindOf(u URL, err error) *fault {
	if u.Scheme == File {
		return kindOfFile(err)
	}
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		why := oneLine(answer.Error())
		if answer.StatusCode == 0 {
			return &fault{ErrInvalid, why}
		}
		return &fault{kindOfAnswer(answer.StatusCode, answer.Code), fmt.Sprintf("the storage answered %d %s: %s", answer.StatusCode, answer.Code, why)}
	}
	return kindOfNetwork(err)
}

// kindOfAnswer maps the status of an answer and the code that object stores send with it.
func kindOfAnswer(status int, code string) error {
	switch {
	case strings.HasSuffix(code, "UserNotFound"): // with 404, but it is about the access key
		return ErrDenied
	case status == http.StatusInsufficientStorage, strings.Contains(code, "StorageFull"), code == "QuotaExceeded":
		return ErrFull
	case status == http.StatusNotFound, status == http.StatusGone, code == "NoSuchKey", code == "NoSuchBucket":
		return ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusPreconditionFailed:
		return ErrChanged
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500 && status != http.StatusNotImplemented,
		code == "RequestTimeout", code == "SlowDown":
		return ErrTemporary
	}
	return ErrInvalid
}

// kindOfNetwork explains what came of no answer. The texts of net/http repeat the URL, query included:
// only those of the layers below are shown.
func kindOfNetwork(err error) *fault {
	var certificate *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &certificate), errors.As(err, &unknown):
		return &fault{ErrInvalid, "the server's certificate isn't trusted; configure the CA file that signed it"}
	case errors.As(err, &record), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return &fault{ErrInvalid, "the server doesn't speak TLS; check the endpoint, or allow plain HTTP if that is meant"}
	case errors.As(err, &op):
		return &fault{ErrTemporary, oneLine(op.Error())}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &fault{ErrTemporary, "no byte came for too long"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &fault{ErrTemporary, "the connection ended in the middle of the answer"}
	}
	var request *url.Error
	if errors.As(err, &request) {
		return &fault{ErrTemporary, "the request got no answer"}
	}
	return &fault{ErrTemporary, "the answer can't be read"}
}

func kindOfFile(err error) *fault {
	why := oneLine(err.Error())
	var path *fs.PathError
	if errors.As(err, &path) {
		why = path.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fault{ErrNotFound, "there is no such file"}
	case strings.HasSuffix(err.Error(), "path escapes from parent"): // the error of os.Root has no name
		return &fault{ErrForbidden, "a symbolic link leads out of the operator's directory"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &fault{ErrDenied, why}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &fault{ErrFull, why}
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EMFILE),
		errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EBUSY):
		return &fault{ErrTemporary, why}
	}
	return &fault{ErrInvalid, why}
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}
