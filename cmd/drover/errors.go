package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitUnknown = 3
)

// spoken is an error whose text is meant for people as it stands.
type spoken interface {
	error
	spoken()
}

func (*usageError) spoken()   {}
func (*unknownError) spoken() {}
func (*aboutError) spoken()   {}
func (*connError) spoken()    {}

// exitError ends the run with a code and no message of ours: the exit code of an exec.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a command line that can't be meant.
type usageError struct{ msg, command string }

func (e *usageError) Error() string {
	return fmt.Sprintf("%s; see `%s --help`", e.msg, e.command)
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), cmd.CommandPath()}
}

// unknownError is a write whose answer was lost, twice.
type unknownError struct{ err error }

func (e *unknownError) Error() string {
	return fmt.Sprintf("the outcome is unknown: the write may have happened (%s); look before trying again", describe(e.err))
}

func (e *unknownError) Unwrap() error { return e.err }

// aboutError says which object or file an error is about.
type aboutError struct {
	what string
	err  error
}

func (e *aboutError) Error() string { return e.what + ": " + describe(e.err) }
func (e *aboutError) Unwrap() error { return e.err }

// about names what err is about; nil stays nil.
func about(what string, err error) error {
	if err == nil {
		return nil
	}
	return &aboutError{what, err}
}

// connError is a scheduler that could not be reached.
type connError struct {
	addr string
	err  error
}

func (e *connError) Error() string {
	why := status.Convert(e.err).Message()
	for _, noise := range []string{"desc = ", "Error while dialing: ", "dial tcp "} {
		if at := strings.LastIndex(why, noise); at >= 0 {
			why = why[at+len(noise):]
		}
	}
	why = strings.TrimPrefix(why, e.addr+": ")
	if strings.Contains(status.Convert(e.err).Message(), "server preface") {
		return fmt.Sprintf("what answers at %s does not speak as asked (%s): a scheduler with TLS needs its ca.pem in --ca-file or DROVER_CA, one without TLS neither", e.addr, oneLine(strings.Trim(why, `"`)))
	}
	return fmt.Sprintf("no scheduler answers at %s (%s); start one with `drover dev`, or name another with --addr or DROVER_ADDR",
		e.addr, oneLine(strings.Trim(why, `"`)))
}

func (e *connError) Unwrap() error { return e.err }

// describe is an error's one line for people, without the words of gRPC.
func describe(err error) string {
	var own spoken
	switch {
	case errors.As(err, &own):
		return oneLine(own.Error())
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	var coded interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &coded) {
		return oneLine(err.Error())
	}
	st := coded.GRPCStatus()
	msg := oneLine(st.Message())
	switch st.Code() {
	case codes.Unauthenticated:
		return msg + "; give a token with --token-file or DROVER_TOKEN"
	case codes.Canceled:
		return "interrupted"
	case codes.DeadlineExceeded:
		return "the scheduler did not answer in time; --timeout allows it more"
	case codes.Unimplemented:
		return msg + "; is the scheduler older than this drover?"
	}
	return msg
}

func exitCode(err error) int {
	var usage *usageError
	var unknown *unknownError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &unknown):
		return exitUnknown
	}
	return exitFailed
}

// harmless takes what a terminal would obey, and what turns the direction of text, out of what came from elsewhere: the
// names, answers and descriptions of one tenant are shown to others.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// oneLine joins the lines of a message that came from elsewhere.
func oneLine(s string) string {
	var b strings.Builder
	for line := range strings.FieldsFuncSeq(harmless(s), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		switch {
		case b.Len() == 0:
		case strings.HasSuffix(b.String(), ":"):
			b.WriteByte(' ')
		default:
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// socketError is an agent whose local socket does not answer.
type socketError struct {
	path string
	err  error
}

func (e *socketError) Error() string {
	return fmt.Sprintf("no agent answers at %s; run this on the agent's node as root, and name its socket with --socket", e.path)
}

func (e *socketError) Unwrap() error { return e.err }
func (*socketError) spoken()         {}

// socketReach names the socket in the error of an agent that could not be reached.
func socketReach(path string, err error) error {
	if status.Code(err) == codes.Unavailable {
		return &socketError{path, err}
	}
	return err
}
