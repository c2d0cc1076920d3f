package scheduler_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// denying is an object storage that lets nobody in, and remembers who has tried.
func denying(t *testing.T) (addr string, tried func() string) {
	t.Helper()
	var last atomic.Value
	last.Store("")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last.Store(r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusForbidden)
		w.Write([]byte(`<Error><Code>AccessDenied</Code><Message>no</Message></Error>`))
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), func() string { return last.Load().(string) }
}

// TestStorageOfAProject: a submission looks at its input with the project's own key, which stays good when the
// key-encryption key is replaced.
func TestStorageOfAProject(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr, tried := denying(t)
	cfg := secureConfig(dir)
	cfg.StorageDirs = []string{filepath.Join(dir, "shared", "{project}")}
	cfg.Stores.S3 = scheduler.Store{Endpoint: addr, PathStyle: true, Insecure: true}
	s := runSecure(t, cfg)
	pool := &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "own"}, Spec: &fleetv1.PoolSpec{Type: "dedicated", Account: fleetv1.Default, Selector: map[string]string{"zone": "a"}}}
	_, err := s.client.Pools.CreatePool(s.context(), &fleetv1.CreatePoolRequest{Pool: pool})
	s.must(err)
	_, err = s.client.Flavors.CreateFlavor(s.context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "cpu.1"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30}}})
	s.must(err)
	object, err := structpb.NewStruct(map[string]any{"type": "object"})
	s.must(err)
	_, err = s.client.Models.CreateModel(s.context(), &fleetv1.CreateModelRequest{Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "iris"},
		Spec: &fleetv1.ModelSpec{Image: image(t), DeployTypes: []string{"batch"}, Apis: []*fleetv1.APIRoute{{Request: &fleetv1.APISchema{Data: object}, Response: &fleetv1.APISchema{Data: object}}}}}})
	s.must(err)
	submit := func(input string) error {
		_, err := s.client.Jobs.SubmitJob(s.context(), &fleetv1.SubmitJobRequest{Job: &fleetv1.Job{Meta: &fleetv1.Meta{Name: "score"},
			Spec: &fleetv1.JobSpec{Pool: "own", Model: "iris", Flavor: "cpu.1", Input: input, Output: "s3://bkt/out/"}}})
		return err
	}
	denied := func(when, key string) {
		t.Helper()
		if err := submit("s3://bkt/in/"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `job.spec.input: list "s3://bkt/in/": access denied`) {
			t.Errorf("%s: %v", when, err)
		}
		if got := tried(); (key == "") != (got == "") || !strings.Contains(got, key) {
			t.Errorf("%s: it is asked with %q, want the key %q", when, got, key)
		}
	}
	denied("without a key", "")
	_, err = s.client.StorageKeys.SetStorageKey(s.context(), &fleetv1.SetStorageKeyRequest{Scheme: "s3", AccessKey: "AK-OURS", SecretKey: "hush"})
	s.must(err)
	denied("with a key", "Credential=AK-OURS/")
	path := filepath.Join(dir, "cluster.key")
	old, err := os.ReadFile(path)
	s.must(err)
	first := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)) + "\n"
	s.must(os.WriteFile(path, append([]byte(first), old...), 0o600))
	_, err = s.client.Identity.RotateKey(s.context(), &fleetv1.RotateKeyRequest{})
	s.must(err)
	s.must(os.WriteFile(path, []byte(first), 0o600))
	denied("under another key-encryption key", "Credential=AK-OURS/")
	for in, want := range map[string]string{
		"file://" + dir + "/shared/other/in/":   "none of the operator's storage directories",
		"file://" + dir + "/shared/default/in/": "storage directory " + dir + "/shared/default isn't there",
	} {
		if err := submit(in); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	s.must(os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600))
	if err := submit("s3://bkt/in/"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `the key of project "default" for s3 storage can't be decrypted`) {
		t.Errorf("without the key-encryption key: %v", err)
	}
	if err := submit("obs://bkt/in/"); err == nil {
		t.Error("a storage that isn't configured is used")
	}
}
