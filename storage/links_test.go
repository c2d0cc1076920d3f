package storage_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drover-fleet/drover/storage"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// openLinks returns a storage that may read links to a server on loopback.
func openLinks(t *testing.T, handler http.HandlerFunc) (*storage.Storage, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	return open(t, storage.Config{CAFile: caFile(t, server), LocalLinks: true, Attempts: 2}), server
}

func TestLink(t *testing.T) {
	s, server := openLinks(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sig") != "secret" || r.URL.EscapedPath() != "/in/a%2Bb%20c" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", `"tag"`)
		w.Header().Set("Last-Modified", "Mon, 02 Nov 2026 15:04:05 GMT")
		_, _ = io.WriteString(w, "content")
	})
	u := parse(t, server.URL+"/in/a%2Bb%20c?sig=secret")
	wantContent(t, s, u, "content")
	o, err := s.Stat(t.Context(), u)
	if err != nil || o.Size != 7 || o.ETag != "tag" || o.ModTime.Year() != 2026 || o.URL != u {
		t.Errorf("%+v, error %v", o, err)
	}
	_, err = read(t.Context(), s, u, storage.ReadOptions{IfETag: "other"})
	wantError(t, err, storage.ErrChanged)
	_, err = read(t.Context(), s, u, storage.ReadOptions{Limit: 6})
	wantError(t, err, storage.ErrTooLarge)
	_, err = read(t.Context(), s, parse(t, server.URL+"/in/a%2Bb%20c?sig=other"), storage.ReadOptions{})
	wantError(t, err, storage.ErrDenied)

	wantError(t, s.Write(t.Context(), u, strings.NewReader("x"), 1), storage.ErrInvalid)
	wantError(t, s.Delete(t.Context(), u), storage.ErrInvalid)
	_, err = s.Empty(t.Context(), u)
	wantError(t, err, storage.ErrInvalid)
}

// Whatever fails, the signature isn't in the error.
func TestBadAnswersToALink(t *testing.T) {
	var flaky atomic.Int32
	s, server := openLinks(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect", "/loop":
			if referer := r.Header.Get("Referer"); referer != "" {
				t.Errorf("referer %s", referer)
			}
			to := map[string]string{"/redirect": "/good?sig=secret", "/loop": "/loop?sig=secret"}[r.URL.Path]
			http.Redirect(w, r, to, http.StatusFound)
		case "/plain":
			http.Redirect(w, r, "http://"+r.Host+"/good?sig=secret", http.StatusFound)
		case "/badredirect":
			w.Header().Set("Location", "https://%zz/?sig=secret")
			w.WriteHeader(http.StatusFound)
		case "/good":
			if referer := r.Header.Get("Referer"); referer != "" {
				t.Errorf("referer %s", referer)
			}
			_, _ = io.WriteString(w, "content")
		case "/flaky":
			if flaky.Add(1) == 1 {
				w.WriteHeader(http.StatusBadGateway)
			}
		case "/chunks":
			for range 10 {
				_, _ = io.WriteString(w, "12345")
				_ = http.NewResponseController(w).Flush()
			}
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "12345")
		case "/reset":
			panic(http.ErrAbortHandler)
		case "/noend":
			hijack(t, w, "HTTP/1.0 200 OK\r\n\r\n12345")
		case "/garbage":
			hijack(t, w, "garbage")
		default:
			var status int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
			w.WriteHeader(status)
		}
	})
	for path, kind := range map[string]error{
		"redirect": nil, "good": nil, "flaky": nil,
		"loop": storage.ErrInvalid, "plain": storage.ErrDenied, "badredirect": storage.ErrTemporary,
		"chunks": storage.ErrTooLarge, "short": storage.ErrTemporary, "reset": storage.ErrTemporary,
		"noend": storage.ErrInvalid, "garbage": storage.ErrTemporary,
		"400": storage.ErrInvalid, "403": storage.ErrDenied, "404": storage.ErrNotFound, "410": storage.ErrNotFound, "206": storage.ErrInvalid,
		"304": storage.ErrInvalid, "500": storage.ErrTemporary,
	} {
		t.Run(path, func(t *testing.T) {
			_, err := read(t.Context(), s, parse(t, server.URL+"/"+path+"?sig=secret"), storage.ReadOptions{Limit: 20})
			if kind != nil {
				wantError(t, err, kind)
			}
			if kind == nil && err != nil || err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func hijack(t *testing.T, w http.ResponseWriter, answer string) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(c, answer)
	c.Close()
}

func TestLinksToThisMachine(t *testing.T) {
	_, server := openLinks(t, func(w http.ResponseWriter, _ *http.Request) { t.Error("was reached") })
	s := open(t, storage.Config{CAFile: caFile(t, server), Attempts: 1})
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "[fe80::1]", "224.0.0.1"} {
		_, err := s.Stat(t.Context(), parse(t, "https://"+host+port+"/x?sig=secret"))
		if !errors.Is(err, storage.ErrDenied) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", host, err)
		}
	}
	untrusted := open(t, storage.Config{LocalLinks: true, Attempts: 1})
	_, err := untrusted.Stat(t.Context(), parse(t, server.URL+"/x"))
	wantError(t, err, storage.ErrInvalid)
}
