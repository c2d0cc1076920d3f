package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

func backupOf(ctx context.Context, t *testing.T, cl *client.Client) []byte {
	t.Helper()
	stream, err := cl.Backups.Backup(ctx, &fleetv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return file
		}
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, m.GetData()...)
	}
}

func restore(ctx context.Context, cl *client.Client, file []byte) (*fleetv1.RestoreResponse, error) {
	stream, err := cl.Backups.Restore(ctx)
	if err != nil {
		return nil, err
	}
	for len(file) > 0 {
		n := min(len(file), 1000)
		if err := stream.Send(&fleetv1.RestoreRequest{Data: file[:n]}); err != nil {
			break // CloseAndRecv says why
		}
		file = file[n:]
	}
	return stream.CloseAndRecv()
}

// containers of all nodes, with their first processes.
func (f *fleet) containers() map[string]int {
	f.t.Helper()
	all := map[string]int{}
	for _, n := range f.Nodes {
		list, err := n.Runtime.List(f.ctx)
		f.must(err)
		for _, st := range list {
			all[n.Name+"/"+st.ID] = st.Pid
		}
	}
	return all
}

// A backup from last week is restored while nodes run newer instances: nothing is removed from any node, no device gets
// a second holder and nothing is placed until an operator has confirmed the list; and then what was backed up runs.
func TestAnOldBackupKillsNothing(t *testing.T) {
	tokens := t.TempDir()
	f := startFleetWith(t, 2, "2xH100-80GB", func(cfg *agent.Config) {
		b, err := os.ReadFile(cfg.TokenFile)
		if err == nil { // the agents keep the token of their first cluster
			cfg.TokenFile = filepath.Join(tokens, "agent.token")
			if _, err := os.Stat(cfg.TokenFile); err != nil {
				if err := os.WriteFile(cfg.TokenFile, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	f.run("old", "gpu.2", 2, nil)
	file := backupOf(f.ctx, t, f.Client)
	if _, err := restore(f.ctx, f.Client, file); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "2 nodes, 1 service, 2 instances, 1 model") {
		t.Errorf("restored into a cluster that isn't empty: %v", err)
	}
	f.remove("old")
	newer := f.run("new", "gpu.2", 1, nil)
	newer = append(newer, f.run("newer", "gpu.1", 2, nil)...)
	before := f.containers()

	f.StopScheduler()
	f.must(os.RemoveAll(filepath.Join(f.dir, "scheduler")))
	f.StartScheduler()
	token, err := os.ReadFile(filepath.Join(f.dir, "scheduler", scheduler.AdminTokenFile))
	f.must(err)
	operator, err := client.Dial(client.Config{Addr: f.grpcAddr, Token: strings.TrimSpace(string(token))})
	f.must(err)
	defer operator.Close()
	bad := slices.Clone(file)
	bad[len(bad)/2] ^= 4
	if _, err := restore(f.ctx, operator, bad); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged backup: %v", err)
	}
	resp, err := restore(f.ctx, operator, file)
	f.must(err)
	if resp.GetToken() != "restore" || resp.GetRestoreEpoch() == 0 {
		t.Errorf("restored as %v", resp)
	}

	list := f.pending(operator, resp.GetRestoreEpoch(), len(newer))
	var ids, names []string
	for _, n := range list.GetNodes() {
		for _, s := range n.GetHold().GetStrangers() {
			ids, names = append(ids, s.GetInstanceId()), append(names, s.GetInstanceName())
		}
	}
	for _, i := range newer {
		if !slices.Contains(names, i.GetMeta().GetName()) {
			t.Errorf("%s isn't in the list %v", i.GetMeta().GetName(), names)
		}
	}
	// A node of which the operator has not seen all isn't confirmed, with the others or alone.
	part, err := operator.Backups.ConfirmRemovals(f.ctx, &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: resp.GetRestoreEpoch()})
	f.must(err)
	if len(part.GetNodes()) != 0 || len(part.GetNotes()) != 2 {
		t.Errorf("confirmed without a look: %v", part)
	}
	if _, err := operator.Backups.ConfirmRemovals(f.ctx, &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: 1, InstanceIds: ids}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("confirmed another restore's list: %v", err)
	}
	f.Nodes[0].Stop()
	f.Nodes[0].Start()
	f.pending(operator, resp.GetRestoreEpoch(), len(newer))
	if after := f.containers(); len(after) != len(before) {
		t.Errorf("containers were %v, now %v", before, after)
	} else {
		for id, pid := range before {
			if after[id] != pid {
				t.Errorf("container %s had the process %d, now %d", id, pid, after[id])
			}
		}
	}

	done, err := operator.Backups.ConfirmRemovals(f.ctx, &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: resp.GetRestoreEpoch(), InstanceIds: ids})
	f.must(err)
	if len(done.GetNodes()) != 2 || len(done.GetNotes()) != 0 {
		t.Errorf("confirmed %v", done)
	}
	f.within("what the backup knows runs, and nothing else", func() bool {
		all := f.containers()
		if len(all) != 2 {
			return false
		}
		for id := range all {
			if _, there := before[id]; there {
				return false
			}
		}
		return true
	})
	f.running("old") // with the administrator's token of the backup
	if list := f.pending(operator, resp.GetRestoreEpoch(), 0); list.GetHeld() || len(list.GetSilentNodes()) != 0 {
		t.Errorf("still pending: %v", list)
	}
}

// pending waits until the nodes list so many instances that they would remove.
func (f *fleet) pending(cl *client.Client, epoch uint64, want int) *fleetv1.ListRemovalsResponse {
	f.t.Helper()
	var list *fleetv1.ListRemovalsResponse
	f.within("the nodes list what they would remove", func() bool {
		var err error
		if list, err = cl.Backups.ListRemovals(f.ctx, &fleetv1.ListRemovalsRequest{}); err != nil {
			return status.Code(err) != codes.Unavailable && f.t.Failed()
		}
		n := 0
		for _, node := range list.GetNodes() {
			n += len(node.GetHold().GetStrangers())
		}
		return n == want && len(list.GetSilentNodes()) == 0 && list.GetRestoreEpoch() == epoch
	})
	return list
}

// Of several schedulers one is left, which had not heard the last: it goes on alone, and what only the lost ones knew of
// runs on until an operator has confirmed that it goes.
func TestALaggingSurvivorKillsNothing(t *testing.T) {
	f := startFleet(t, 1, "2xH100-80GB")
	f.run("known", "gpu.1", 1, nil)
	f.StopScheduler()
	data, survivor := filepath.Join(f.dir, "scheduler"), filepath.Join(f.dir, "survivor")
	f.must(os.CopyFS(survivor, os.DirFS(data)))
	f.StartScheduler()
	f.run("unknown", "gpu.1", 1, nil)
	before := f.containers()
	f.StopScheduler()
	f.must(os.RemoveAll(data))
	f.must(os.CopyFS(data, os.DirFS(survivor)))

	cfg := scheduler.DefaultConfig()
	cfg.DataDir, cfg.RaftAddr = data, "127.0.0.1:0"
	looked := errors.New("only a look")
	if err := scheduler.Recover(cfg, f.logger, func(scheduler.Recovery) error { return looked }); !errors.Is(err, looked) {
		t.Fatal(err)
	}
	f.must(scheduler.Recover(cfg, f.logger, func(scheduler.Recovery) error { return nil }))
	var epoch uint64
	for range 2 { // a later start is no recovery
		f.StartScheduler()
		list := &fleetv1.ListRemovalsResponse{}
		f.within("the node lists what it would remove", func() bool {
			var err error
			list, err = f.Client.Backups.ListRemovals(f.ctx, &fleetv1.ListRemovalsRequest{})
			return err == nil && len(list.GetNodes()) == 1 && len(list.GetSilentNodes()) == 0
		})
		if s := list.GetNodes()[0].GetHold().GetStrangers(); len(s) != 1 || s[0].GetService() != "unknown" || !list.GetHeld() || epoch != 0 && list.GetRestoreEpoch() != epoch {
			t.Errorf("listed %v", list)
		}
		epoch = list.GetRestoreEpoch()
		f.StopScheduler()
	}
	f.StartScheduler()
	for id, pid := range f.containers() {
		if before[id] != pid {
			t.Errorf("containers were %v, now %s has the process %d", before, id, pid)
		}
	}
	if len(f.containers()) != 2 {
		t.Errorf("containers were %v, now %v", before, f.containers())
	}
	list := f.pending(f.Client, epoch, 1)
	_, err := f.Client.Backups.ConfirmRemovals(f.ctx, &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: epoch,
		InstanceIds: []string{list.GetNodes()[0].GetHold().GetStrangers()[0].GetInstanceId()}})
	f.must(err)
	f.within("only what is known runs", func() bool { return len(f.containers()) == 1 })
	f.running("known")
}
