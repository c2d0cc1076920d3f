package agent

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// TestOpenStorage: a job reaches this node's directories and the object storage that its setup names, and nothing is left
// of the certificates that this took.
func TestOpenStorage(t *testing.T) {
	a := &Agent{cfg: Config{DataDir: t.TempDir(), StorageDirs: []string{t.TempDir()}}}
	if err := os.Mkdir(a.spools(), 0o700); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for name, c := range map[string]struct {
		access *fleetv1.StorageAccess
		fails  string
	}{
		"with certificates": {&fleetv1.StorageAccess{Scheme: storage.S3, Endpoint: "s3.example.com", AccessKey: "k", SecretKey: "s", Ca: ca}, ""},
		"no certificates":   {&fleetv1.StorageAccess{Scheme: storage.OBS, Endpoint: "obs.example.com", PathStyle: true, Insecure: true}, ""},
		"not certificates":  {&fleetv1.StorageAccess{Scheme: storage.S3, Endpoint: "s3.example.com", Ca: "nonsense"}, "s3"},
		"half a key":        {&fleetv1.StorageAccess{Scheme: storage.S3, Endpoint: "s3.example.com", AccessKey: "k"}, "secret key"},
	} {
		s, err := a.openStorage("default", &fleetv1.TaskSetup{Storage: []*fleetv1.StorageAccess{c.access}})
		if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			s.Close()
		}
		if left, err := os.ReadDir(a.spools()); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left, %v", name, left, err)
		}
	}
}
