package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// voter opens one of several schedulers' logs.
func voter(t *testing.T, dir, addr string, bootstrap bool) (*raftstore.Store, *state.Store) {
	t.Helper()
	cfg, st := raftstore.DefaultConfig(), state.New()
	cfg.DataDir, cfg.Addr, cfg.Bootstrap, cfg.Logger = dir, addr, bootstrap, slog.New(slog.DiscardHandler)
	s, err := raftstore.Open(cfg, st, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, st
}

func leads(ctx context.Context, t *testing.T, s *raftstore.Store) {
	t.Helper()
	for !s.IsLeader() {
		select {
		case <-s.LeaderChanges():
		case <-ctx.Done():
			t.Fatal("it doesn't lead")
		}
	}
}

func flavor(name string) *fleetv1.Command {
	cmd := &fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}})},
		Events:    []*fleetv1.Event{{Type: fleetv1.EventNormal, Reason: "X"}}}}}
	cmd.Introduced = state.Introduced(cmd)
	return cmd
}

// Of three schedulers two are lost. Without --yes the third is only looked at; with it, it goes on alone with what it has.
func TestRecoverFromALostMajority(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	first, _ := voter(t, filepath.Join(dir, "1"), "127.0.0.1:0", true)
	leads(ctx, t, first)
	addr := first.Addr()
	var others []*raftstore.Store
	for _, name := range []string{"2", "3"} {
		s, _ := voter(t, filepath.Join(dir, name), "127.0.0.1:0", false)
		if err := first.AddVoter(ctx, s.ID(), s.Addr()); err != nil {
			t.Fatal(err)
		}
		others = append(others, s)
	}
	if _, err := first.Propose(ctx, flavor("kept")); err != nil {
		t.Fatal(err)
	}
	for _, s := range append(others, first) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}

	drover := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &o, err: &e, getenv: func(string) string { return "" }, now: time.Now}
		code = a.execute(ctx, append([]string{"scheduler", "recover", "--data-dir", filepath.Join(dir, "1"), "--raft-addr", addr}, args...))
		return code, o.String(), e.String()
	}
	for range 2 { // looking changes nothing
		code, out, errs := drover()
		if code != exitFailed || !strings.Contains(errs, "nothing has been changed: add --yes") || strings.Count(out, "removed\n") != 2 ||
			!strings.Contains(out, "\nMEMBER ") || !strings.Contains(out, "only voter") || !strings.Contains(out, "are lost; how many is not known here") {
			t.Fatalf("code %d, says\n%s\n%s", code, out, errs)
		}
	}
	if code, out, errs := drover("--yes"); code != exitDone || !strings.Contains(out, "is the only voter now") {
		t.Fatalf("code %d, says\n%s\n%s", code, out, errs)
	}
	alone, st := voter(t, filepath.Join(dir, "1"), addr, false)
	leads(ctx, t, alone)
	if st.View().Flavor("kept") == nil || len(alone.Status().Members) != 1 {
		t.Errorf("it has %v, with the members %v", st.View().Flavors(), alone.Status().Members)
	}
	if _, err := alone.Propose(ctx, flavor("new")); err != nil {
		t.Error(err)
	}
	if code, _, errs := drover("--yes"); code != exitFailed || !strings.Contains(errs, "in use") && !strings.Contains(errs, "lock") {
		t.Errorf("of a scheduler that runs: code %d, %s", code, errs)
	}
	if code, _, errs := drover("--data-dir", t.TempDir()); code != exitFailed || !strings.Contains(errs, "holds no state of a scheduler") {
		t.Errorf("of nothing: code %d, %s", code, errs)
	}
}
