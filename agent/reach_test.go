package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/logfile"
)

// next answers the next message of the open relay.
func (s *scheduler) next() *fleetv1.RelayRequest {
	s.t.Helper()
	select {
	case m := <-s.relayed:
		return m
	case <-time.After(patience):
		s.t.Fatal("nothing came through the relay")
		return nil
	}
}

func (n *node) local() fleetv1.LocalServiceClient {
	n.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.cfg.DataDir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return fleetv1.NewLocalServiceClient(conn)
}

func TestLogs(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	s.send(1, instance())
	s.until("ready", ready)
	begin := time.Now().Add(-time.Minute)
	dir := filepath.Join(n.cfg.DataDir, "logs", "0a1b")
	for attempt := range 2 {
		w := logfile.NewWriter(filepath.Join(dir, fmt.Sprint(attempt+1)), logfile.Options{})
		for i := range 3 {
			if err := w.WriteLine(begin.Add(time.Duration(3*attempt+i)*time.Second), "stdout", fmt.Appendf(nil, "line %d of %d", i+1, attempt+1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(id string, q *fleetv1.LogQuery) {
		s.orders <- &fleetv1.RelayOrder{RelayId: "logs", InstanceId: id, What: &fleetv1.RelayOrder_Logs{Logs: q}}
		if m := s.next(); m.GetRelayId() != "logs" {
			t.Fatalf("the relay begins with %v", m)
		}
	}
	for _, c := range []struct {
		query *fleetv1.LogQuery
		want  []string
	}{
		{&fleetv1.LogQuery{Tail: 2}, []string{"line 2 of 2", "line 3 of 2"}},
		{&fleetv1.LogQuery{Attempt: 1, Tail: 1}, []string{"line 3 of 1"}},
		{&fleetv1.LogQuery{Search: "line && 3"}, []string{"line 3 of 1", "line 3 of 2"}},
	} {
		ask("0a1b", c.query)
		var got []string
		for len(got) < len(c.want) {
			m := s.next()
			if m.GetError() != "" {
				t.Fatalf("%v: %s", c.query, m.GetError())
			}
			for _, l := range m.GetLines() {
				got = append(got, string(l.GetText()))
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.query, got, c.want)
		}
	}
	for _, bad := range []string{"", "../0a1b", "a/b"} {
		ask(bad, &fleetv1.LogQuery{})
		if m := s.next(); !strings.Contains(m.GetError(), "no instance") {
			t.Errorf("logs of %q: %v", bad, m)
		}
	}
	ask("0a1b", &fleetv1.LogQuery{Search: "&&"})
	if m := s.next(); m.GetError() == "" {
		t.Errorf("a search that is none: %v", m)
	}

	n.end()
	s.server.Stop()
	n.boot(nil)
	local := n.local()
	read := func(req *fleetv1.GetLocalLogsRequest) (lines []string, err error) {
		stream, err := local.GetLocalLogs(t.Context(), req)
		for err == nil {
			var m *fleetv1.GetLocalLogsResponse
			if m, err = stream.Recv(); err == nil {
				for _, l := range m.GetLines() {
					lines = append(lines, string(l.GetText()))
				}
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return lines, err
	}
	lines, err := read(&fleetv1.GetLocalLogsRequest{Name: "iris-0a1b", Query: &fleetv1.LogQuery{Tail: 1}})
	if err != nil || !slices.Equal(lines, []string{"line 3 of 2"}) {
		t.Errorf("without a scheduler: %v, %v", lines, err)
	}
	if _, err := read(&fleetv1.GetLocalLogsRequest{Name: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("logs of nobody: %v", err)
	}
	if _, err := read(&fleetv1.GetLocalLogsRequest{Name: "0a1b", Query: &fleetv1.LogQuery{Search: "&&"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a search that is none: %v", err)
	}
}

// A terminal: its first size, what is typed, a change of its size after the end of the input, what is printed.
// TestExecErrorsSpeakOfTheCommand: a caller names an instance, and knows no container.
func TestExecErrorsSpeakOfTheCommand(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	newNodeWith(t, func(_ context.Context, req runtime.ExecRequest) (uint32, error) {
		if req.Command[0] == "/nope" {
			return 0, fmt.Errorf("exec in 0a1b-1: %w: stat /nope: no such file or directory", runtime.ErrFatal)
		}
		return 0, fmt.Errorf("exec in 0a1b-1: %w", runtime.ErrUnavailable)
	}, s.addr)
	<-s.hellos
	s.send(1, instance())
	s.until("ready", ready)
	for command, want := range map[string]string{"/nope": "stat /nope: no such file or directory", "/true": "runtime unavailable"} {
		s.orders <- &fleetv1.RelayOrder{RelayId: command, InstanceId: "0a1b", What: &fleetv1.RelayOrder_Exec{Exec: &fleetv1.ExecStart{Command: []string{command}}}}
		m := s.next()
		for m.GetError() == "" {
			m = s.next()
		}
		if m.GetError() != want {
			t.Errorf("%s: %q, want %q", command, m.GetError(), want)
		}
	}
}

func TestExecWithATerminal(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	newNodeWith(t, func(ctx context.Context, req runtime.ExecRequest) (uint32, error) {
		in, err := bufio.NewReader(req.Stdin).ReadString('\n')
		if err != nil {
			return 0, err
		}
		if _, err := fmt.Fprintf(req.Stdout, "%v %v %s", req.TTY, req.Size, in); err != nil {
			return 0, err
		}
		if rest, err := io.ReadAll(req.Stdin); len(rest) > 0 || err != nil {
			return 0, fmt.Errorf("after the input's end: %q, %w", rest, err)
		}
		select {
		case size := <-req.Resize:
			_, err = fmt.Fprint(req.Stdout, size)
		case <-ctx.Done():
			err = ctx.Err()
		}
		return 7, err
	}, s.addr)
	<-s.hellos
	s.send(1, instance())
	s.until("ready", ready)
	s.orders <- &fleetv1.RelayOrder{RelayId: "shell", InstanceId: "0a1b", What: &fleetv1.RelayOrder_Exec{
		Exec: &fleetv1.ExecStart{Command: []string{"sh", "-i"}, Tty: true, Rows: 40, Columns: 1 << 20},
	}}
	s.next()
	s.inputs <- &fleetv1.ExecInput{Stdin: []byte("hello\n")}
	s.inputs <- &fleetv1.ExecInput{CloseStdin: true}
	s.inputs <- &fleetv1.ExecInput{Rows: 41, Columns: 80}
	var out string
	for {
		m := s.next()
		if m.GetError() != "" {
			t.Fatal(m.GetError())
		}
		out += string(m.GetOutput().GetStdout())
		if o := m.GetOutput(); o != nil && o.ExitCode != nil {
			if want := "true {40 65535} hello\n{41 80}"; o.GetExitCode() != 7 || out != want {
				t.Errorf("code %d, output %q; want 7, %q", o.GetExitCode(), out, want)
			}
			break
		}
	}
	s.orders <- &fleetv1.RelayOrder{RelayId: "none", InstanceId: "nobody", What: &fleetv1.RelayOrder_Exec{Exec: &fleetv1.ExecStart{Command: []string{"sh"}}}}
	s.next()
	if m := s.next(); !strings.Contains(m.GetError(), "does not run on this node") {
		t.Errorf("a shell in nobody: %v", m)
	}
}

func TestDeviceChanges(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	hello := <-s.hellos
	id := hello.GetFacts().GetDevices()[0].GetId()
	n.accelerators.SetHealth(id, fleetv1.Unhealthy, "ECC errors")
	if err := n.accelerators.Inject(1, "xid 79"); err != nil { // a signal makes the registry look again
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for changed, told := false, false; !changed || !told; {
		select {
		case f := <-s.facts:
			d := f.GetDevices()[0]
			changed = d.GetId() == id && d.GetHealth() == fleetv1.Unhealthy && d.GetHealthReason() == "ECC errors"
		case r := <-s.reports:
			for _, ev := range r.GetNodeEvents() {
				told = ev.GetReason() == "DeviceFailed" && strings.Contains(ev.GetMessage(), id) && strings.Contains(ev.GetMessage(), "ECC errors")
			}
		case <-deadline:
			t.Fatalf("facts changed: %v, event: %v", changed, told)
		}
	}
}
