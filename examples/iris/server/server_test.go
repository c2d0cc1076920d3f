package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/examples/iris/softmax"
)

func load(t *testing.T) *softmax.Model {
	t.Helper()
	m, err := softmax.Load(bytes.NewReader(weights))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPredictions(t *testing.T) {
	var logs bytes.Buffer
	srv := httptest.NewServer(logged(slog.New(slog.NewTextHandler(&logs, nil)), handler(load(t))))
	defer srv.Close()
	for _, tc := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"setosa", "POST", "/", `{"data":{"req_data":[{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}]}}`, 200, `^{"data":{"resp_data":\[{"predictresult":"setosa","probability":0\.9\d+}\]}}`},
		{"two", "POST", "/", `{"data":{"req_data":[{"sepal_length":5.9,"sepal_width":2.8,"petal_length":4.2,"petal_width":1.3},{"sepal_length":6.6,"sepal_width":3,"petal_length":5.6,"petal_width":2.1}]}}`, 200, `versicolor.*virginica`},
		{"zero is a measure", "POST", "/", `{"data":{"req_data":[{"sepal_length":0,"sepal_width":0,"petal_length":0,"petal_width":0}]}}`, 200, `predictresult`},
		{"missing measure", "POST", "/", `{"data":{"req_data":[{"sepal_length":5}]}}`, 400, `data\.req_data\[0\]\.sepal_width: is missing`},
		{"no flower", "POST", "/", `{}`, 400, `want one flower or more`},
		{"a word for a number", "POST", "/", `{"data":{"req_data":[{"sepal_length":"long"}]}}`, 400, `no prediction request`},
		{"not JSON", "POST", "/", `hello`, 400, `no prediction request`},
		{"too large", "POST", "/", `{"data":"` + strings.Repeat("x", maxBody) + `"}`, 413, `too large`},
		{"wrong method", "GET", "/", ``, 405, ``},
		{"wrong path", "POST", "/x", ``, 404, ``},
		{"health", "GET", "/health", ``, 200, `ok`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, srv.URL+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tc.code || !regexp.MustCompile(tc.want).Match(body) {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	srv.Close()
	if got := strings.Count(logs.String(), "msg=request"); got != 10 {
		t.Errorf("%d requests logged, want 10: all but the health check", got)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) {
		if bytes.Contains(p, []byte("serving")) {
			cancel()
		}
	}), nil))
	if err := serve(ctx, log, "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
	if err := serve(t.Context(), log, "127.0.0.1:-1"); err == nil {
		t.Error("no error for a port that doesn't exist")
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
