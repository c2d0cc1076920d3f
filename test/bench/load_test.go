//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connections that ask at the same time.
const connections = 64

// load asks the same request over keep-alive connections. Answers must all be as long as the first.
type load struct {
	addr    string
	request []byte
	size    int // bytes of an answer, head included
	conns   []net.Conn
}

// newLoad connects, and learns the answer's length from a first request on each connection. The header says who asks.
func newLoad(ctx context.Context, addr, path string, header http.Header, connections int) (*load, error) {
	var request bytes.Buffer
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\n", path, addr)
	if err := header.Write(&request); err != nil {
		return nil, err
	}
	request.WriteString("\r\n")
	l := &load{addr: addr, request: request.Bytes()}
	for range connections {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.conns = append(l.conns, conn)
	}
	counted := &countingReader{from: l.conns[0]}
	if _, err := l.conns[0].Write(l.request); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	buffered := bufio.NewReader(counted)
	resp, err := http.ReadResponse(buffered, nil)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || resp.ContentLength <= 0 {
		return nil, errors.Join(fmt.Errorf("%s answers %s with %d bytes: %w", addr, resp.Status, resp.ContentLength, err), l.Close())
	}
	l.size = counted.n - buffered.Buffered()
	buf := make([]byte, l.size)
	for _, conn := range l.conns[1:] { // one that has not asked yet is soon closed
		if err := l.ask(conn, buf); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

type countingReader struct {
	from io.Reader
	n    int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += n
	return n, err
}

func (l *load) Close() error {
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// run makes so many requests in all and answers how long each took, sorted, and how long all did.
func (l *load) run(requests int) (latencies []time.Duration, took time.Duration, err error) {
	var left atomic.Int64
	left.Store(int64(requests))
	perConn := make([][]time.Duration, len(l.conns))
	errs := make([]error, len(l.conns))
	var all sync.WaitGroup
	start := time.Now()
	for i, conn := range l.conns {
		all.Go(func() {
			buf := make([]byte, l.size)
			_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a socket takes a deadline, or the next call fails
			for left.Add(-1) >= 0 {
				asked := time.Now()
				if errs[i] = l.ask(conn, buf); errs[i] != nil {
					return
				}
				perConn[i] = append(perConn[i], time.Since(asked))
			}
		})
	}
	all.Wait()
	took = time.Since(start)
	latencies = slices.Concat(perConn...)
	slices.Sort(latencies)
	return latencies, took, errors.Join(errs...)
}

func (l *load) ask(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(l.request); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) || buf[len(buf)-1] != '\n' {
		return fmt.Errorf("%s answered %.200q", l.addr, buf)
	}
	return nil
}

// bareVariable names the file with what the bare server answers, in the bare server's environment.
const bareVariable = "DROVER_BENCH_BARE"

// canned is an answer to repeat.
type canned struct {
	Header http.Header
	Body   []byte
}

// fetch asks once and keeps the answer, without what net/http adds by itself.
func fetch(ctx context.Context, url, token string) (canned, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return canned{}, err
	}
	r.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return canned{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("look up: %s: %s", resp.Status, body)
	}
	resp.Header.Del("Date")
	return canned{Header: resp.Header, Body: body}, err
}

// serveBare is the bare server's main: net/http and a handler that writes bytes. It prints its address
// and ends with its standard input.
func serveBare(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var answer canned
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for k, v := range answer.Header {
			h[k] = v
		}
		_, _ = w.Write(answer.Body) // a client that went away
	})}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Close()
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startBare starts the bare server for an answer and answers its address; stop ends it.
func startBare(dir string, answer canned) (addr string, stop func() error, err error) {
	raw, err := json.Marshal(answer)
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, "answer.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), bareVariable+"="+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as the scheduler: the kernel shares processors between sessions
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error { return errors.Join(stdin.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("the bare server says no address: %w", err), stop())
	}
	return strings.TrimSpace(line), stop, nil
}
