package agent

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// certify gives a data directory a certificate for a node.
func certify(t *testing.T, dir, node string, issued time.Time) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := identity.KeyFile(filepath.Join(t.TempDir(), "key"))
	must(file.Make())
	keys, err := file.Read()
	must(err)
	ca, err := identity.NewAuthority("c1", issued)
	must(err)
	root, err := ca.Root(keys)
	must(err)
	p, err := identity.Prepare(node, nil)
	must(err)
	r, err := identity.ParseRequest(p.CSR)
	must(err)
	cert, _, err := ca.Issue(r, fleetv1.RoleAgent, issued, time.Hour, nil)
	must(err)
	k, err := identity.Open(filepath.Join(dir, "identity"), slog.New(slog.DiscardHandler))
	must(err)
	must(k.Adopt(p, cert, &fleetv1.Trust{ClusterId: "c1", Roots: [][]byte{root.GetCertificate()}, Schedulers: []string{"10.0.0.1:7400"}}))
}

// A join file is read when there is no valid certificate, and only then.
func TestWhenJoinFileIsRead(t *testing.T) {
	file, err := identity.JoinFile{Schedulers: []string{"10.0.0.2:7400"}, Token: identity.NewToken(nil, strings.Repeat("A", 52))}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		node   string
		issued time.Duration
		joins  bool
		wrong  string
	}{
		"valid":          {node: "n1", issued: 0},
		"expired":        {node: "n1", issued: -2 * time.Hour, joins: true},
		"another node's": {node: "n2", wrong: "is that of agent/n2"},
	} {
		dir := t.TempDir()
		certify(t, dir, c.node, time.Now().Add(c.issued))
		a := &Agent{cfg: Config{NodeName: "n1", DataDir: dir, JoinFile: "-", Stdin: bytes.NewReader(file)}}
		if a.identity, err = identity.Open(filepath.Join(dir, "identity"), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		err := a.prepareJoin()
		if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) || (a.joining != nil) != c.joins {
			t.Errorf("%s: joins %v, %v", name, a.joining, err)
		}
		if got := a.schedulers(); c.wrong == "" && (len(got) != 1 || got[0] != "10.0.0.1:7400") {
			t.Errorf("%s: schedulers %v", name, got)
		}
	}
}
