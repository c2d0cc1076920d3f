package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/drover-fleet/drover/examples/iris/softmax"
)

const maxBody = 12 << 20

type request struct {
	Data struct {
		Flowers []map[string]*float64 `json:"req_data"`
	} `json:"data"`
}

type response struct {
	Data struct {
		Predictions []prediction `json:"resp_data"`
	} `json:"data"`
}

type prediction struct {
	Result      string  `json:"predictresult"`
	Probability float64 `json:"probability"`
}

func handler(model *softmax.Model) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		resp, err := predict(model, http.MaxBytesReader(w, r.Body, maxBody))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			answer(w, http.StatusRequestEntityTooLarge, map[string]string{"error": err.Error()})
		case err != nil:
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		default:
			answer(w, http.StatusOK, resp)
		}
	})
	return mux
}

func predict(model *softmax.Model, body interface{ Read([]byte) (int, error) }) (*response, error) {
	var req request
	if err := json.NewDecoder(body).Decode(&req); err != nil {
		return nil, fmt.Errorf("the body is no prediction request: %w", err)
	}
	if len(req.Data.Flowers) == 0 {
		return nil, errors.New("data.req_data: want one flower or more")
	}
	var resp response
	for i, flower := range req.Data.Flowers {
		features := make([]float64, len(model.Features))
		for f, name := range model.Features {
			x := flower[name]
			if x == nil {
				return nil, fmt.Errorf("data.req_data[%d].%s: is missing", i, name)
			}
			features[f] = *x
		}
		class, p := model.Predict(features)
		resp.Data.Predictions = append(resp.Data.Predictions, prediction{class, p})
	}
	return &resp, nil
}

func answer(w http.ResponseWriter, code int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(data, '\n'))
}

// logged logs each request with its answer's status, health checks at debug level.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(rec, r)
		level := slog.LevelInfo
		if r.URL.Path == "/health" {
			level = slog.LevelDebug
		}
		log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", rec.code,
			"from", r.RemoteAddr, "duration", time.Since(start))
	})
}

type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}
