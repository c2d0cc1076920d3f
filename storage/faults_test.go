package storage_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/storage"
	"github.com/drover-fleet/drover/storage/storagetest"
)

// openFaulty returns an object store behind a proxy, and a folder of it.
func openFaulty(t *testing.T, attempts int) (*storage.Storage, *storagetest.Faults, storage.URL) {
	t.Helper()
	faults := storagetest.Faulty(t, storagetest.Start(t, "jobs"))
	s := open(t, storage.Config{Stores: map[string]storage.Store{"s3": faults.Store}, Attempts: attempts})
	return s, faults, parse(t, "s3://jobs/in/")
}

func TestAnswersOfTheStore(t *testing.T) {
	s, faults, root := openFaulty(t, 1)
	u := join(t, root, "x")
	write(t, s, u, "content")
	for fault, kind := range map[*storagetest.Fault]error{
		{Status: 400}: storage.ErrInvalid,
		{Status: 403}: storage.ErrDenied,
		{Status: 404}: storage.ErrNotFound,
		{Status: 412}: storage.ErrChanged,
		{Status: 429}: storage.ErrTemporary,
		{Status: 500}: storage.ErrTemporary,
		{Status: 503}: storage.ErrTemporary,
		{Status: 507}: storage.ErrFull,
		{Reset: true}: storage.ErrTemporary,
	} {
		faults.Add(*fault)
		_, err := read(t.Context(), s, u, storage.ReadOptions{})
		wantError(t, err, kind)
		_, err = s.Stat(t.Context(), u)
		wantError(t, err, kind)
		_, err = s.Empty(t.Context(), root)
		wantError(t, err, kind)
		wantError(t, s.Write(t.Context(), u, strings.NewReader("y"), 1), kind)
		if err := s.Delete(t.Context(), u); !errors.Is(err, kind) && !errors.Is(kind, storage.ErrNotFound) {
			t.Errorf("delete: %v, want %v", err, kind)
		}
		faults.Clear()
	}
	wantContent(t, s, u, "content")
}

func TestRetries(t *testing.T) {
	s, faults, root := openFaulty(t, 3)
	u := join(t, root, "x")
	faults.Add(storagetest.Fault{Times: 1, Status: 500})
	faults.Add(storagetest.Fault{Times: 1, Reset: true})
	write(t, s, u, "content")
	faults.Add(storagetest.Fault{Times: 2, Status: 503})
	wantContent(t, s, u, "content")
	faults.Add(storagetest.Fault{Times: 2, Status: 503})
	if err := s.Delete(t.Context(), u); err != nil {
		t.Error(err)
	}

	faults.Add(storagetest.Fault{Times: 3, Status: 503})
	_, err := s.Stat(t.Context(), u)
	wantError(t, err, storage.ErrTemporary)
	faults.Add(storagetest.Fault{Times: 1, Status: 403})
	_, err = s.Stat(t.Context(), u)
	wantError(t, err, storage.ErrDenied)
	_, err = s.Stat(t.Context(), u)
	wantError(t, err, storage.ErrNotFound)
}

func TestRetriesEndWithTheContext(t *testing.T) {
	s, faults, root := openFaulty(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	faults.Add(storagetest.Fault{Status: 503, Match: func(*http.Request) bool { cancel(); return true }})
	_, err := s.Stat(ctx, join(t, root, "x"))
	wantError(t, err, context.Canceled)
}

func TestStoreGoesAway(t *testing.T) {
	s, faults, root := openFaulty(t, 2)
	u := join(t, root, "x")
	write(t, s, u, "content")
	faults.Down()
	_, err := read(t.Context(), s, u, storage.ReadOptions{})
	wantError(t, err, storage.ErrTemporary)
	faults.Up(t)
	wantContent(t, s, u, "content")
}

// A listing that is disturbed has every key once.
func TestListGoesOn(t *testing.T) {
	s, faults, root := openFaulty(t, 4)
	var want []string
	for i := range 1005 {
		want = append(want, fmt.Sprintf("%04d", i))
		write(t, s, join(t, root, want[i]), "")
	}
	second := func(r *http.Request) bool { return r.URL.Query().Has("continuation-token") }
	faults.Add(storagetest.Fault{Times: 1, Status: 500, Match: second})
	faults.Add(storagetest.Fault{Times: 1, Reset: true})
	faults.Add(storagetest.Fault{Times: 1, Truncate: 500})
	if got := list(t, s, root, ""); !slices.Equal(got, want) {
		t.Errorf("listed %d keys, want %d in their order", len(got), len(want))
	}
	faults.Add(storagetest.Fault{Status: 403, Match: func(r *http.Request) bool { return second(r) }})
	n := 0
	for _, err := range s.List(t.Context(), root, "") {
		if n++; err != nil {
			wantError(t, err, storage.ErrDenied)
		}
	}
	if n != 1001 {
		t.Errorf("%d pairs before and with the error, want 1001", n)
	}
}

func TestTruncatedBody(t *testing.T) {
	s, faults, root := openFaulty(t, 1)
	u := join(t, root, "x")
	write(t, s, u, strings.Repeat("x", 100_000))
	faults.Add(storagetest.Fault{Truncate: 70_000, Match: storagetest.Method("GET")})
	got, err := read(t.Context(), s, u, storage.ReadOptions{})
	wantError(t, err, storage.ErrTemporary)
	if len(got) > 70_000 {
		t.Errorf("%d bytes of 70000", len(got))
	}
}

// What is silent for too long fails.
func TestSilence(t *testing.T) {
	s, faults, root := openFaulty(t, 1)
	impatient := open(t, storage.Config{Stores: map[string]storage.Store{"s3": faults.Store}, Attempts: 1, Idle: 200 * time.Millisecond})
	u := join(t, root, "x")
	write(t, s, u, "content")
	hold := make(chan struct{})
	defer close(hold)
	faults.Add(storagetest.Fault{Hold: hold})
	_, err := read(t.Context(), impatient, u, storage.ReadOptions{})
	wantError(t, err, storage.ErrTemporary)
	wantError(t, impatient.Write(t.Context(), u, strings.NewReader("other"), 5), storage.ErrTemporary)
	faults.Clear()
	faults.Add(storagetest.Fault{Times: 1, Delay: time.Millisecond})
	wantContent(t, s, u, "content")
}

// An upload in parts that fails leaves what was there.
func TestPartsAppearAtOnce(t *testing.T) {
	s, faults, root := openFaulty(t, 1)
	u := join(t, root, "x")
	write(t, s, u, "before")
	last := func(r *http.Request) bool { return r.Method == "PUT" && r.URL.Query().Get("partNumber") == "2" }
	faults.Add(storagetest.Fault{Status: 500, Match: last})
	content := strings.Repeat("x", 17<<20)
	wantError(t, s.Write(t.Context(), u, strings.NewReader(content), int64(len(content))), storage.ErrTemporary)
	wantContent(t, s, u, "before")
	faults.Clear()
	write(t, s, u, content)
	wantContent(t, s, u, content)
}

func TestCredentials(t *testing.T) {
	server := storagetest.Start(t, "jobs")
	for name, change := range map[string]func(*storage.Store){
		"wrong secret": func(s *storage.Store) { s.SecretKey = "other" },
		"unknown key":  func(s *storage.Store) { s.AccessKey = "other" },
		"none":         func(s *storage.Store) { s.AccessKey, s.SecretKey = "", "" },
	} {
		store := server.Store
		change(&store)
		s := open(t, storage.Config{Stores: map[string]storage.Store{"s3": store}})
		_, err := s.Empty(t.Context(), parse(t, "s3://jobs/"))
		if !errors.Is(err, storage.ErrDenied) || strings.Contains(err.Error(), server.Store.SecretKey) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	s := open(t, storage.Config{Stores: map[string]storage.Store{"s3": server.Store}})
	_, err := s.Empty(t.Context(), parse(t, "s3://nobucket/"))
	wantError(t, err, storage.ErrNotFound)
	_, err = s.Empty(t.Context(), parse(t, "obs://jobs/"))
	wantError(t, err, storage.ErrInvalid)
}

// caFile writes the certificate of a server.
func caFile(t *testing.T, server *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLSOfTheStore(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		http.NotFound(w, r)
	}))
	defer server.Close()
	server.Config.ErrorLog = quiet()
	endpoint := strings.TrimPrefix(server.URL, "https://")
	plain := storagetest.Start(t, "jobs")
	for name, c := range map[string]struct {
		store storage.Store
		kind  error
	}{
		"trusted":        {storage.Store{Endpoint: endpoint, PathStyle: true, CAFile: caFile(t, server)}, storage.ErrNotFound},
		"not trusted":    {storage.Store{Endpoint: endpoint, PathStyle: true}, storage.ErrInvalid},
		"TLS to plain":   {storage.Store{Endpoint: plain.Store.Endpoint, PathStyle: true}, storage.ErrInvalid},
		"plain to TLS":   {storage.Store{Endpoint: endpoint, PathStyle: true, Insecure: true}, storage.ErrInvalid},
		"nobody listens": {storage.Store{Endpoint: "127.0.0.1:1", PathStyle: true, Insecure: true}, storage.ErrTemporary},
	} {
		s := open(t, storage.Config{Stores: map[string]storage.Store{"s3": c.store}, Attempts: 1})
		_, err := s.Stat(t.Context(), parse(t, "s3://jobs/x"))
		t.Run(name, func(t *testing.T) { wantError(t, err, c.kind) })
	}
}
