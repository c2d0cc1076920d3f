package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hlogger hands Raft's log lines to slog. Raft's Info is our Debug: it speaks of each election and snapshot.
type hlogger struct {
	to   *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*hlogger)(nil)

func slogLevel(l hclog.Level) slog.Level {
	switch {
	case l >= hclog.Error:
		return slog.LevelError
	case l == hclog.Warn:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (h *hlogger) Log(l hclog.Level, msg string, args ...any) {
	to := slogLevel(l)
	if !h.to.Enabled(context.Background(), to) {
		return
	}
	// hclog's formatted values have no text of their own in slog.
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	h.to.Log(context.Background(), to, msg, args...)
}

func (h *hlogger) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hlogger) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hlogger) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hlogger) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hlogger) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hlogger) enabled(l hclog.Level) bool {
	return h.to.Enabled(context.Background(), slogLevel(l))
}

func (h *hlogger) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h *hlogger) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h *hlogger) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h *hlogger) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h *hlogger) IsError() bool { return h.enabled(hclog.Error) }

func (h *hlogger) ImpliedArgs() []any { return h.args }
func (h *hlogger) Name() string       { return h.name }

func (h *hlogger) With(args ...any) hclog.Logger {
	return &hlogger{to: h.to.With(args...), name: h.name, args: append(append([]any(nil), h.args...), args...)}
}

func (h *hlogger) Named(name string) hclog.Logger {
	return &hlogger{to: h.to, name: name, args: h.args}
}

func (h *hlogger) ResetNamed(name string) hclog.Logger { return h.Named(name) }

// SetLevel does nothing: slog's handler decides.
func (h *hlogger) SetLevel(hclog.Level)  {}
func (h *hlogger) GetLevel() hclog.Level { return hclog.NoLevel }

func (h *hlogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(h.to.Handler(), slog.LevelDebug)
}

func (h *hlogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return h.StandardLogger(o).Writer()
}
