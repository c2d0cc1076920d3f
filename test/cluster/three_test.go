package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/scheduler/gossip"
)

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func flavorRequest(name, request string) *fleetv1.CreateFlavorRequest {
	return &fleetv1.CreateFlavorRequest{RequestId: request, Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: name}, Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20}}}
}

func flavors(ctx context.Context, cl *client.Client, opts ...grpc.CallOption) (map[string]*fleetv1.Flavor, error) {
	resp, err := cl.Flavors.ListFlavors(ctx, &fleetv1.ListFlavorsRequest{}, opts...)
	found := map[string]*fleetv1.Flavor{}
	for _, f := range resp.GetFlavors() {
		found[f.GetMeta().GetName()] = f
	}
	return found, err
}

func stale(ctx context.Context, kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, append(kv, fleetv1.MetadataConsistency, fleetv1.ConsistencyStale)...)
}

// Writers ask every scheduler in turn while leaders are stopped: what was acknowledged is there, and once.
func TestFailoverUnderWrites(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	ended, stop := context.WithCancel(ctx)
	var clients []*client.Client
	for _, one := range s.All {
		clients = append(clients, one.Client)
	}
	acknowledged := make([][]string, 4)
	var writers sync.WaitGroup
	for w := range acknowledged {
		writers.Go(func() {
			for n := 0; ended.Err() == nil; n++ {
				name := fmt.Sprintf("f-%d-%d", w, n)
				for try := 0; ctx.Err() == nil; try++ {
					call, cancel := context.WithTimeout(ctx, 5*time.Second)
					_, err := clients[(w+try)%3].Flavors.CreateFlavor(call, flavorRequest(name, name))
					cancel()
					if err == nil {
						acknowledged[w] = append(acknowledged[w], name)
						break
					}
					switch status.Code(err) {
					case codes.Unavailable, codes.Unknown, codes.DeadlineExceeded, codes.Canceled: // again, with the same request ID
					default:
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			}
		})
	}
	for range 3 {
		leader := s.Leader()
		leader.Stop()
		start := time.Now()
		next := s.Leader()
		s.Poll("a write is acknowledged again", func() error {
			_, err := next.Client.Flavors.CreateFlavor(ctx, flavorRequest("probe-"+next.Name, ""))
			return err
		})
		t.Logf("a write is acknowledged %v after the leader was stopped", time.Since(start).Round(time.Millisecond))
		leader.Start()
		s.WaitVoters(3)
	}
	stop()
	writers.Wait()
	total := 0
	for _, one := range s.All {
		var have map[string]*fleetv1.Flavor
		s.Poll(one.Name+" answers", func() (err error) { // its client may still wait before it connects again
			have, err = flavors(ctx, one.Client)
			return err
		})
		for _, names := range acknowledged {
			total += len(names)
			for _, name := range names {
				if have[name] == nil {
					t.Errorf("%s: %s was acknowledged and is gone", one.Name, name)
				}
			}
		}
	}
	if total == 0 {
		t.Error("nothing was written")
	}
	t.Logf("%d writes were acknowledged", total/3)
}

func TestFollowersForward(t *testing.T) {
	s := Three(t, Options{Nodes: 1})
	ctx := bounded(t)
	one := s.Follower()
	other := s.Follower(one)
	made, err := one.Client.Flavors.CreateFlavor(ctx, flavorRequest("a", "r1"))
	if err != nil || made.GetFlavor().GetMeta().GetCreatedBy() != "admin" {
		t.Fatalf("a write at a follower: %v, %v", made, err)
	}
	// The request ID came along: the same request takes effect once, another one is refused.
	again, err := other.Client.Flavors.CreateFlavor(ctx, flavorRequest("a", "r1"))
	if err != nil || again.GetFlavor().GetMeta().GetId() != made.GetFlavor().GetMeta().GetId() {
		t.Errorf("the same request at another follower: %v, %v", again, err)
	}
	if _, err := other.Client.Flavors.CreateFlavor(ctx, flavorRequest("b", "r1")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another request with its ID: %v", err)
	}
	// A read at any scheduler sees it at once.
	for _, c := range []*client.Client{one.Client, other.Client} {
		if have, err := flavors(ctx, c); err != nil || have["a"] == nil {
			t.Errorf("read after write: %v, %v", have, err)
		}
	}
	// Who isn't known here isn't passed on.
	stranger, err := client.Dial(client.Config{Addr: one.Server.GRPCAddr(), Token: "guess", CAFile: one.Server.CAPath()})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Flavors.CreateFlavor(ctx, flavorRequest("c", "")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger's write: %v", err)
	}
	// Streams: a deployment is followed at a follower, and the node's logs come through it.
	s.Cluster.Client = one.Client
	s.Declare()
	s.Deploy("echo", 1)
	s.WaitState("echo", fleetv1.ServiceRunning)
	// The node was told of every scheduler, and its session is with the leader.
	nodes, err := other.Client.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{})
	if err != nil || nodes.GetNodes()[0].GetStatus().GetHeartbeatTime() == nil {
		t.Errorf("the node's heartbeat: %v, %v", nodes, err)
	}
}

func lookupAt(one *Scheduler, token, query string) (*http.Response, string, error) {
	req, err := http.NewRequest(http.MethodGet, client.LookupURL("https://"+one.Server.HTTPAddr(), "default", "echo")+query, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("X-Auth-Token", token)
	hc, err := client.NewHTTPClient(one.Server.CAPath())
	if err != nil {
		return nil, "", err
	}
	defer hc.CloseIdleConnections()
	resp, err := hc.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// With the others gone a scheduler still answers what it knows, and says how old that is.
func TestStaleAnswers(t *testing.T) {
	s := Three(t, Options{Nodes: 1})
	ctx := bounded(t)
	s.Declare()
	s.Deploy("echo", 1)
	s.WaitState("echo", fleetv1.ServiceRunning)
	one := s.Follower()
	var header metadata.MD
	s.Poll("the follower has it all", func() error {
		have, err := flavors(stale(ctx), one.Client, grpc.Header(&header))
		if err == nil && have[Flavor] == nil {
			err = errors.New("it has not")
		}
		return err
	})
	if ms := header.Get(fleetv1.MetadataStaleness); len(ms) != 1 || len(ms[0]) > 4 {
		t.Errorf("the staleness of a follower with a leader: %q ms", ms)
	}
	s.Poll("the follower answers look-ups", func() error {
		resp, body, err := lookupAt(one, s.Token, "")
		if err == nil && (resp.StatusCode != 200 || !strings.Contains(body, "instance_id") || resp.Header.Get("Drover-Stale") != "") {
			err = fmt.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
		}
		return err
	})
	for _, other := range s.All {
		if other != one {
			other.Stop()
		}
	}
	s.Poll("the answer says that it is stale", func() error {
		resp, body, err := lookupAt(one, s.Token, "")
		if err == nil && (resp.StatusCode != 200 || !strings.Contains(body, "instance_id")) {
			t.Fatalf("a look-up failed: %d %s", resp.StatusCode, body)
		}
		if err == nil && resp.Header.Get("Drover-Stale") != "true" {
			err = errors.New("it doesn't")
		}
		return err
	})
	if resp, body, err := lookupAt(one, s.Token, "&max_stale=1"); err != nil || resp.StatusCode != 503 || !strings.Contains(body, "no leader for") {
		t.Errorf("a look-up that must not be old: %v %v %s", err, resp, body)
	}
	if _, err := flavors(ctx, one.Client); status.Code(err) != codes.Unavailable {
		t.Errorf("a linearizable read without a leader: %v", err)
	}
	if _, err := one.Client.Flavors.CreateFlavor(ctx, flavorRequest("no", "")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("a write without a leader: %v", err)
	}
	if have, err := flavors(stale(ctx), one.Client, grpc.Header(&header)); err != nil || have[Flavor] == nil || len(header.Get(fleetv1.MetadataStaleness)[0]) < 4 {
		t.Errorf("a stale read: %v, %v, %v", have, err, header)
	}
	if _, err := flavors(stale(ctx, fleetv1.MetadataMaxStale, "1000"), one.Client); status.Code(err) != codes.Unavailable {
		t.Errorf("a stale read that must not be old: %v", err)
	}
}

func TestTransferAndLeaderChanges(t *testing.T) {
	s := Three(t, Options{Nodes: 1})
	ctx := bounded(t)
	for i := range 4 { // each leads and resigns more than once
		to := s.Follower()
		at := s.Follower(to)
		resp, err := at.Client.Cluster.TransferLeader(ctx, &fleetv1.TransferLeaderRequest{Member: to.Name})
		if err != nil || resp.GetMember().GetName() != to.Name {
			t.Fatalf("%v, %v", resp, err)
		}
		s.Poll(to.Name+" leads", func() error {
			if s.Leader() != to {
				return errors.New("it doesn't")
			}
			return nil
		})
		s.WaitVoters(3)
		if _, err := at.Client.Flavors.CreateFlavor(ctx, flavorRequest(fmt.Sprint("f", i), "")); err != nil {
			t.Fatal(err)
		}
		// The node follows, by itself.
		s.Poll("the node's session is with the new leader", func() error {
			resp, err := to.Client.Nodes.GetNode(ctx, &fleetv1.GetNodeRequest{Name: s.Nodes[0].Name})
			if err == nil && resp.GetNode().GetStatus().GetHeartbeatTime() == nil {
				err = errors.New("it isn't")
			}
			return err
		})
	}
	if _, err := s.Leader().Client.Cluster.TransferLeader(ctx, &fleetv1.TransferLeaderRequest{Member: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("to nobody: %v", err)
	}
}

func TestRemoveMember(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	gone := s.Follower()
	left := s.Follower(gone)
	gone.Stop()
	s.WaitVoters(2)
	cl := s.Leader().Client.Cluster
	if _, err := cl.RemoveMember(ctx, &fleetv1.RemoveMemberRequest{Member: left.Name}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("removing one of the two that are alive: %v", err)
	}
	if _, err := cl.RemoveMember(ctx, &fleetv1.RemoveMemberRequest{Member: gone.Name, RequestId: "r"}); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Members(); err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	// Its certificate is worth nothing: it is no member again, whatever it tries, and never says that it serves.
	server, err := scheduler.New(gone.config(), s.logger)
	if err == nil {
		ran, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := server.Run(ran); err != nil {
			t.Error(err)
		}
		select {
		case <-server.Ready():
			t.Error("the removed scheduler serves")
		default:
		}
	}
	if all, err := s.Members(); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	// A new one takes the place.
	s.Add(nil)
	s.WaitVoters(3)
}

// Who was given up as lost comes back with its data, and goes on as the cluster of before: without the one that was
// recovered, which doesn't hear it.
func TestTheLostDoNotUndoARecovery(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	one := s.Leader()
	for _, other := range s.All {
		other.Stop()
	}
	if err := scheduler.Recover(one.config(), s.logger, func(scheduler.Recovery) error { return nil }); err != nil {
		t.Fatal(err)
	}
	one.Start()
	if _, err := one.Client.Flavors.CreateFlavor(ctx, flavorRequest("alone", "")); err != nil {
		t.Fatal(err)
	}
	for _, other := range s.All {
		if other != one {
			other.daemon.start("scheduler "+other.Name, mustMake(t, other).Run)
		}
	}
	s.Poll("the lost ones lead one another", func() error {
		for _, other := range s.All {
			if other != one && other.Server.Leads() {
				return nil
			}
		}
		return errors.New("none does")
	})
	for n := range 20 { // a second and more: the other leader's heartbeats come within it
		if _, err := one.Client.Flavors.CreateFlavor(ctx, flavorRequest(fmt.Sprintf("after-%d", n), "")); err != nil {
			t.Fatal(err)
		}
		if !pause(ctx, 100*time.Millisecond) {
			t.Fatal("too slow")
		}
	}
	if have, err := flavors(ctx, one.Client); err != nil || have["alone"] == nil || len(have) != 21 {
		t.Errorf("what was written since: %v, %v", have, err)
	}
}

// mustMake makes a scheduler that may never be ready.
func mustMake(t *testing.T, one *Scheduler) *scheduler.Server {
	t.Helper()
	server, err := scheduler.New(one.config(), one.s.logger.With("daemon", one.Name))
	if err != nil {
		t.Fatal(err)
	}
	one.Server = server
	return server
}

func TestReturnAtOtherAddresses(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	one := s.Follower()
	one.Stop()
	if _, err := s.Leader().Client.Flavors.CreateFlavor(ctx, flavorRequest("meanwhile", "")); err != nil {
		t.Fatal(err)
	}
	one.Move()
	one.Start()
	one.dial()
	s.WaitVoters(3)
	if have, err := flavors(stale(ctx), one.Client); err != nil || have["meanwhile"] == nil {
		t.Errorf("what was written meanwhile: %v, %v", have, err)
	}
	s.Poll("the new addresses are written down", func() error {
		all, err := s.Members()
		for _, m := range all {
			if m.GetName() == one.Name && (m.GetAddress() != one.Server.RaftAddr() || m.GetGrpcAddress() != one.Server.GRPCAddr() || !m.GetGossipAlive()) {
				err = fmt.Errorf("%v", m)
			}
		}
		return err
	})
}

func TestSpareReplacesTheDead(t *testing.T) {
	s := Three(t, Options{Scheduler: func(cfg *scheduler.Config) { cfg.DeadAfter = 10 * time.Second }})
	s.Add(nil)
	s.Poll("the fourth is a spare", func() error {
		all, err := s.Members()
		if err == nil && (len(all) != 4 || !strings.HasPrefix(all[3].GetNote(), "spare")) {
			err = fmt.Errorf("%v", all)
		}
		return err
	})
	dead := s.Follower(s.All[3])
	dead.Stop()
	s.Poll("the spare has the dead one's place", func() error {
		all, err := s.Members()
		if err == nil && len(all) != 3 {
			err = fmt.Errorf("%v", all)
		}
		return err
	})
	s.WaitVoters(3)
}

// A command that a voter doesn't know isn't proposed.
func TestOlderSchedulerHoldsBackNewCommands(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	older := s.Follower()
	older.Stop()
	older.Tune = func(cfg *scheduler.Config) { cfg.CommandVersion, cfg.Version = 2, "v0.older" }
	older.Start()
	s.Poll("the leader knows", func() error {
		_, err := s.Leader().Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{})
		if status.Code(err) != codes.FailedPrecondition {
			return fmt.Errorf("a join token is made: %w", err)
		}
		if !strings.Contains(err.Error(), "scheduler "+older.Name) || !strings.Contains(err.Error(), "upgrade it first") {
			t.Fatalf("the error doesn't say who: %v", err)
		}
		return nil
	})
	for range 2 {
		if _, err := s.Leader().Client.Flavors.CreateFlavor(ctx, flavorRequest("known", "r")); err != nil {
			t.Errorf("what every scheduler knows: %v", err)
		}
	}
	older.Stop()
	older.Tune = nil
	older.Start()
	s.Poll("a join token is made", func() error {
		_, err := s.Leader().Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{})
		return err
	})
}

// With certificates that last for months, too, a new root lets hosts in at once.
func TestJoinAfterANewRoot(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	resp, err := s.Follower().Client.Identity.RotateCA(ctx, &fleetv1.RotateCARequest{})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(nil)
	s.Poll("all schedulers have certificates of the new root", func() error {
		list, err := s.Leader().Client.Identity.ListCertificates(ctx, &fleetv1.ListCertificatesRequest{})
		for _, c := range list.GetCertificates() {
			if c.GetRoot() != resp.GetRoots()[0] {
				err = fmt.Errorf("%v", c)
			}
		}
		return err
	})
}

func TestRotateGossipKey(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	before, err := s.Members()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Follower().Client.Cluster.RotateGossipKey(ctx, &fleetv1.RotateGossipKeyRequest{RequestId: "r"})
	if err != nil || resp.GetKeyId() == "" || resp.GetKeyId() == before[0].GetGossipKeys()[0] {
		t.Fatalf("%v, %v", resp, err)
	}
	s.Poll("all use the new key alone", func() error {
		all, err := s.Members()
		for _, m := range all {
			if len(m.GetGossipKeys()) != 1 || m.GetGossipKeys()[0] != resp.GetKeyId() || !m.GetGossipAlive() {
				err = fmt.Errorf("%v", m)
			}
		}
		return err
	})
}

// The key-encryption key is replaced, and the old one taken away: gossip goes on, also on who starts anew.
func TestGossipKeyFollowsTheKeyFile(t *testing.T) {
	s := Three(t, Options{})
	ctx := bounded(t)
	gossips := func(one *Scheduler) func() error {
		return func() error {
			all, err := s.Members()
			for _, m := range all {
				if m.GetName() == one.Name && (len(m.GetGossipKeys()) != 1 || !m.GetGossipAlive()) {
					err = fmt.Errorf("%v", m)
				}
			}
			return err
		}
	}
	one := s.Follower()
	s.Poll("it gossips", gossips(one))
	file := filepath.Join(s.dir, "cluster.key")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fresh := base64.StdEncoding.EncodeToString(gossip.NewKey()) + "\n" // any 32 random bytes
	if err := os.WriteFile(file, append([]byte(fresh), old...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Client.Identity.RotateKey(ctx, &fleetv1.RotateKeyRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(fresh), 0o600); err != nil {
		t.Fatal(err)
	}
	one.Stop()
	one.Start()
	s.WaitVoters(3)
	s.Poll("it gossips again", gossips(one))
}

// The wall clock of the leader jumps by an hour and back: it hands over, loudly, and no service is stopped early.
func TestClockJumps(t *testing.T) {
	s := Three(t, Options{Nodes: 1})
	ctx := bounded(t)
	s.Declare()
	if _, err := s.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: "short", Project: "default"},
		Spec: &fleetv1.ServiceSpec{Pool: Pool, AutoStopHours: 1, Versions: []*fleetv1.ServiceVersion{{Model: Model, Flavor: Flavor, Instances: 1}}},
	}}); err != nil {
		t.Fatal(err)
	}
	s.WaitState("short", fleetv1.ServiceRunning)
	for _, by := range []time.Duration{61 * time.Minute, -61 * time.Minute} {
		old := s.Leader()
		old.ShiftClock(by)
		s.Poll("another scheduler leads", func() error {
			if s.Leader() == old {
				return errors.New("it still does")
			}
			return nil
		})
		s.Poll("it is told", func() error {
			resp, err := s.Leader().Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindScheduler, Name: old.Name}})
			for _, e := range resp.GetEvents() {
				if e.GetReason() == "ClockOutOfLine" {
					return nil
				}
			}
			return errors.Join(err, fmt.Errorf("no event among %v", resp.GetEvents()))
		})
		old.ShiftClock(0)
		s.Poll("its clock is in line again", func() error {
			all, err := s.Members()
			for _, m := range all {
				if m.GetName() == old.Name && m.GetNote() != "" {
					err = fmt.Errorf("%v", m)
				}
			}
			return err
		})
	}
	resp, err := s.Leader().Client.Services.GetService(ctx, &fleetv1.GetServiceRequest{Project: "default", Name: "short"})
	if err != nil || resp.GetService().GetStatus().GetState() != fleetv1.ServiceRunning {
		t.Errorf("the service with an auto stop in an hour: %v, %v", resp.GetService().GetStatus(), err)
	}
	left := time.Until(resp.GetService().GetStatus().GetAutoStopTime().AsTime())
	if left < 50*time.Minute || left > time.Hour {
		t.Errorf("the auto stop is in %v", left)
	}
}
