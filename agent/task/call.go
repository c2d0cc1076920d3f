package task

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxAnswer is the size of an answer at most.
const maxAnswer = 12 << 20

var (
	errTooLarge = fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	errNoAnswer = errors.New("no answer in time")
)

// caller sends requests to the container.
type caller struct {
	scheme string
	client *http.Client
}

// dialer makes connections; nil is the network's.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func newCaller(api *fleetv1.ModelAPI, dial dialer) *caller {
	return &caller{
		scheme: cmp.Or(api.GetProtocol(), "http"),
		client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:         dial,
				MaxIdleConnsPerHost: 1024, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute,
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see the package's doc
			},
		},
	}
}

func (c *caller) close() { c.client.CloseIdleConnections() }

// answer is what the container said. free gives its room back.
type answer struct {
	body []byte
	free func()
}

// post sends a request once, and takes in its answer.
func (d *driver) post(ctx context.Context, w *work, address string, r *request) (answer, *failure) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, errNoAnswer)
	defer cancel()
	out, status, err := d.exchangeHTTP(ctx, w, address, r)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNoAnswer) {
			err = fmt.Errorf("no answer within %s: %w", w.timeout, context.DeadlineExceeded)
		}
		d.mu.Lock()
		leaving := d.leaving != nil && d.address == ""
		d.mu.Unlock()
		return answer{}, requestFailure(err, leaving)
	}
	if fault := batch.StatusFault(status); fault != batch.NoFault {
		text := strings.Join(strings.Fields(string(out.body[:min(len(out.body), 300)])), " ")
		out.free()
		message := fmt.Sprintf("the model answered %d %s", status, http.StatusText(status))
		if text != "" {
			message += ": " + strings.ToValidUTF8(text, "?")
		}
		return answer{}, &failure{
			fault: fault, message: message, overloaded: status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable,
		}
	}
	return out, nil
}

func (d *driver) exchangeHTTP(ctx context.Context, w *work, address string, r *request) (_ answer, status int, err error) {
	body, contentType, size, err := r.body()
	if err != nil {
		return answer{}, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, w.form.method, d.call.scheme+"://"+address+w.form.path, body)
	if err != nil {
		return answer{}, 0, err
	}
	if req.ContentLength = size; size == 0 {
		req.Body = http.NoBody
	}
	if !strings.HasPrefix(contentType, "multipart/") { // a form's boundary is another one each time
		req.GetBody = func() (io.ReadCloser, error) { // for a connection that the container has closed meanwhile
			again, _, _, err := r.body()
			return io.NopCloser(again), err
		}
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "drover-task")
	resp, err := d.call.client.Do(req)
	if err != nil {
		var repeated *url.Error
		if errors.As(err, &repeated) { // its text names the address
			err = repeated.Err
		}
		return answer{}, 0, err
	}
	out, err := d.read(ctx, resp.Body, resp.ContentLength)
	if closed := resp.Body.Close(); err == nil && closed != nil {
		out.free()
		err = closed
	}
	return out, resp.StatusCode, err
}

// read takes in an answer. Above largeBytes it waits for room.
func (d *driver) read(ctx context.Context, body io.Reader, length int64) (answer, error) {
	if length > maxAnswer {
		return answer{}, errTooLarge
	}
	out := answer{free: func() {}}
	var buf bytes.Buffer
	buf.Grow(int(min(max(length, 512)+bytes.MinRead, largeBytes)))
	n, err := io.Copy(&buf, io.LimitReader(body, largeBytes))
	if err == nil && n == largeBytes {
		select {
		case d.answers <- struct{}{}:
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
		out.free = func() { <-d.answers }
		_, err = io.Copy(&buf, io.LimitReader(body, maxAnswer-largeBytes+1))
	}
	if err == nil && buf.Len() > maxAnswer {
		err = errTooLarge
	}
	if err != nil {
		out.free()
		return answer{}, err
	}
	out.body = buf.Bytes()
	return out, nil
}

// send sends a request until it has a result or is not to be tried again. An error says that it can't be known.
func (d *driver) send(ctx context.Context, c *chunk, w *work, k key, r *request, count *attempts) (answer, *failure, error) {
	itemTries, modelTries := 0, 0
	for pause := firstPause; ; {
		t, err := d.turn(ctx, c, k)
		if err != nil {
			return answer{}, nil, err
		}
		began := time.Now()
		out, fail := d.post(ctx, w, t.address, r)
		var took time.Duration
		if ctx.Err() == nil && (fail == nil || fail.fault != batch.InfrastructureFault) {
			took = max(time.Since(began), 1)
		}
		d.release(t, took, fail != nil && fail.overloaded)
		count.add(d)
		if fail == nil {
			checked, err := w.form.result(r, out.body)
			if err == nil {
				out.body = checked
				d.settled(k)
				return out, nil, nil
			}
			out.free()
			fail = &failure{fault: batch.ItemFault, message: err.Error()}
		}
		var free bool // a try that doesn't count
		var times int
		if fail.broken && fail.fault == batch.ModelFault {
			if free, times = d.crashed(ctx, t); times > w.modelRetries {
				d.settled(k)
				return answer{}, &failure{
					fault: batch.ModelFault, crashed: true, message: fmt.Sprintf("the container exited each of the %d times that it was sent", times),
				}, nil
			}
		}
		if ctx.Err() != nil {
			return answer{}, nil, ctx.Err()
		}
		switch {
		case free, fail.fault == batch.InfrastructureFault:
		case fail.fault == batch.ItemFault && itemTries < w.itemRetries:
			itemTries++
		case fail.fault == batch.ModelFault && modelTries < w.modelRetries:
			modelTries++
		default:
			d.settled(k)
			return answer{}, fail, nil
		}
		if !free {
			if !sleep(ctx, pause, nil) {
				return answer{}, nil, ctx.Err()
			}
			pause = min(2*pause, lastPause)
		}
	}
}
