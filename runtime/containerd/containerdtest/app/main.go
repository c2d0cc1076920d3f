// Command app is a server for tests that listens on $PORT (8080 when unset) and does as asked:
//
//	/              answers "ok"
//	/health        200, or 503 after /health/set?ok=false
//	/exit?code=N   ends the process
//	/print?lines=N prints so many lines to standard output, then answers
//	/flood?bytes=N prints so many bytes in long lines, then answers with how long that took
//	/dial?addr=A   connects to A over TCP; answers "connected", or the error
//	/alloc?bytes=N takes so much memory and keeps it
//	/env?key=K     answers an environment variable
//	/file?path=P   answers a file's content
//	/list?path=P   answers the names in a directory, one on each line
//	/predict       is a model for batch jobs, see package model; GET answers how many items it was given
//
// With arguments it runs as a client, for use with exec: "app dial ADDR" as above; "app tty" echoes
// standard input, says whether it is a terminal, and ends with it.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest/model"
)

func main() {
	if len(os.Args) > 1 {
		os.Exit(client(os.Args[1:]))
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		os.Exit(0)
	}()
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	srv := &http.Server{Addr: ":" + port, Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	os.Exit(1)
}

func client(args []string) int {
	switch {
	case len(args) == 2 && args[0] == "dial":
		fmt.Println(dial(args[1]))
	case args[0] == "tty":
		_, err := unix.IoctlGetTermios(0, unix.TCGETS)
		fmt.Println("terminal:", err == nil)
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Println("read:", in.Text())
			if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
				fmt.Println("size:", size.Row, size.Col)
			}
			if in.Text() == "quit" {
				break
			}
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: app [dial ADDR | tty]")
		return 2
	}
	return 0
}

func handler() http.Handler {
	var sick atomic.Bool
	var kept [][]byte
	mux := http.NewServeMux()
	answer := func(pattern string, fn func(r *http.Request) string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, fn(r)) })
	}
	answer("/", func(*http.Request) string { return "ok" })
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	answer("/health/set", func(r *http.Request) string {
		sick.Store(r.FormValue("ok") == "false")
		return "set"
	})
	answer("/exit", func(r *http.Request) string {
		os.Exit(number(r, "code"))
		return ""
	})
	answer("/print", func(r *http.Request) string {
		for i := range number(r, "lines") {
			fmt.Println("line", i+1)
		}
		return "printed"
	})
	answer("/flood", func(r *http.Request) string { return flood(number(r, "bytes")) })
	answer("/dial", func(r *http.Request) string { return dial(r.FormValue("addr")) })
	answer("/alloc", func(r *http.Request) string {
		block := make([]byte, number(r, "bytes"))
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
		return strconv.Itoa(len(kept))
	})
	answer("/env", func(r *http.Request) string { return os.Getenv(r.FormValue("key")) })
	answer("/file", func(r *http.Request) string {
		raw, err := os.ReadFile(r.FormValue("path"))
		if err != nil {
			return err.Error()
		}
		return string(raw)
	})
	var given atomic.Int64
	mux.HandleFunc("POST /predict", func(w http.ResponseWriter, r *http.Request) {
		given.Add(1)
		model.Predict(w, r)
	})
	answer("GET /predict", func(*http.Request) string { return strconv.FormatInt(given.Load(), 10) })
	answer("/list", func(r *http.Request) string { return list(r.FormValue("path")) })
	return mux
}

func flood(bytes int) string {
	line := strings.Repeat("x", 1023) + "\n"
	start := time.Now()
	for range bytes / len(line) {
		if _, err := io.WriteString(os.Stdout, line); err != nil {
			return err.Error()
		}
	}
	return time.Since(start).String()
}

func list(path string) string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err.Error()
	}
	var names strings.Builder
	for _, entry := range entries {
		names.WriteString(entry.Name() + "\n")
	}
	return names.String()
}

func number(r *http.Request, key string) int {
	n, err := strconv.Atoi(r.FormValue(key))
	if err != nil {
		return 0
	}
	return n
}

func dial(addr string) string {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err.Error()
	}
	_ = conn.Close()
	return "connected"
}
