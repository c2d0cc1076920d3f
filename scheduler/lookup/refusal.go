package lookup

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refusal is why there is no answer, in the words that clients read.
type refusal struct {
	status     int    // of HTTP
	reason     int    // tells refusals of one status apart; 0 where there is no need to
	msg        string // what, why, and what to do
	retryAfter time.Duration
}

// reasonUnsigned, with the status 401: the body isn't signed.
const reasonUnsigned = 1

// Reasons with the status 409: the service is there and can't be looked up.
const (
	reasonPool = iota + 1
	reasonStopped
	reasonPackage
	reasonBatch
)

// Reasons with the status 429.
const (
	reasonAccount = iota + 1
	reasonUser
	reasonWatches
)

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, msg: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.msg }

// code is "DROVER.0404" by the status, or "DROVER.4091" with a reason.
func (r *refusal) code() string {
	if r.reason != 0 {
		return fmt.Sprintf("DROVER.%03d%d", r.status, r.reason)
	}
	return fmt.Sprintf("DROVER.%04d", r.status)
}

func (r *refusal) body() []byte {
	body, err := json.Marshal(struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
	}{r.code(), r.msg})
	if err != nil {
		panic(fmt.Sprintf("lookup: encode two strings: %v", err))
	}
	return body
}

func (r *refusal) retrySeconds() int { return int(math.Ceil(r.retryAfter.Seconds())) }

// write answers in the form that clients of SPEC §4 read.
func (r *refusal) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if r.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(r.retrySeconds()))
	}
	w.WriteHeader(r.status)
	w.Write(r.body()) // a client that went away is its own loss
}

// GRPCStatus implements what grpc asks errors for.
func (r *refusal) GRPCStatus() *status.Status {
	code := codes.Internal
	switch r.status {
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.NotFound
	case http.StatusConflict:
		code = codes.FailedPrecondition
	case http.StatusTooManyRequests:
		code = codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	return status.New(code, r.msg)
}
