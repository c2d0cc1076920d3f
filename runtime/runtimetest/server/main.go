// Command server is the program in the image that package runtimetest runs. It listens on $PORT (8080
// when unset), answers every request with "ok", and ends with code 0 on SIGTERM. Flags change that.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	exit := flag.Int("exit", -1, "end with this code instead of serving")
	after := flag.Duration("exit-after", 0, "how long to wait before -exit")
	lines := flag.Int("print", 0, "print so many lines to standard output first")
	ignore := flag.Bool("ignore-term", false, "ignore SIGTERM")
	flag.Parse()

	for i := range *lines {
		if _, err := fmt.Printf("line %d\n", i+1); err != nil {
			os.Exit(74)
		}
	}
	if *exit >= 0 {
		time.Sleep(*after)
		os.Exit(*exit)
	}
	term := make(chan os.Signal, 1)
	if *ignore {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM)
	}
	if err := serve(term); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(term <-chan os.Signal) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	l, err := net.Listen("tcp", net.JoinHostPort("", port))
	if err != nil {
		return err
	}
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			// A client that went away needs no answer.
			_, _ = fmt.Fprint(w, "ok")
		}),
	}
	go func() {
		<-term
		os.Exit(0)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
