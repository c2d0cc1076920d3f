package gossip

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// meta tells what this scheduler says of itself.
type meta struct{ g *Gossip }

func (m meta) NodeMeta(limit int) []byte {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	b, err := proto.Marshal(m.g.self)
	if err != nil || len(b) > limit {
		m.g.cfg.Logger.Error("what this scheduler says of itself is too long for gossip", "bytes", len(b), "limit", limit, "error", err)
		return nil
	}
	return b
}

func (meta) NotifyMsg([]byte)                {}
func (meta) GetBroadcasts(int, int) [][]byte { return nil }
func (meta) LocalState(bool) []byte          { return nil }
func (meta) MergeRemoteState([]byte, bool)   {}

// events keeps what others say of themselves. memberlist calls it under its own lock.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node)   { e.g.note(n, true) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.g.note(n, true) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.g.note(n, false) }

func (g *Gossip) note(n *memberlist.Node, alive bool) {
	told, err := decode(n.Meta)
	if err != nil || told.GetMeta().GetId() != n.Name {
		g.cfg.Logger.Warn("a scheduler says by gossip what can't be read", "scheduler", n.Name, "address", n.Address(), "error", err)
		told = &fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: n.Name}}
	}
	g.mu.Lock()
	g.heard[n.Name] = &hearing{told, n.Address(), alive}
	g.mu.Unlock()
	g.cfg.Logger.Debug("gossip", "scheduler", n.Name, "address", n.Address(), "alive", alive)
}

// decode reads what a scheduler says of itself.
func decode(b []byte) (*fleetv1.Scheduler, error) {
	s := &fleetv1.Scheduler{}
	return s, proto.Unmarshal(b, s)
}

// lines turns memberlist's log into ours.
type lines struct {
	to    *slog.Logger
	limit *rate.Limiter
}

func newLog(to *slog.Logger) *lines {
	return &lines{to: to.With("part", "gossip"), limit: rate.NewLimiter(1, 10)}
}

// Write takes one line, such as "2006/01/02 15:04:05 [ERR] memberlist: text".
func (l *lines) Write(b []byte) (int, error) {
	_, rest, ok := bytes.Cut(b, []byte("["))
	word, text, ok2 := bytes.Cut(rest, []byte("] "))
	level := slog.LevelWarn
	switch {
	case !ok || !ok2:
		text = b
	case string(word) == "DEBUG":
		level = slog.LevelDebug
	case string(word) == "INFO":
		level = slog.LevelInfo
	}
	if l.to.Enabled(context.Background(), level) && l.limit.Allow() {
		l.to.Log(context.Background(), level, string(bytes.TrimSpace(bytes.TrimPrefix(text, []byte("memberlist: ")))))
	}
	return len(b), nil
}
