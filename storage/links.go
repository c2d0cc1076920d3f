package storage

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

const maxRedirects = 5

// links reads signed https:// links.
type links struct {
	client *http.Client
}

func newLinks(cfg Config, idle time.Duration) (links, error) {
	allow := refuseLocal
	if cfg.LocalLinks {
		allow = nil
	}
	transport, err := newTransport(cfg.CAFile, idle, allow)
	if err != nil {
		return links{}, fmt.Errorf("%w: links: %w", ErrInvalid, err)
	}
	return links{&http.Client{Transport: transport, CheckRedirect: checkRedirect}}, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer") // it would hand the signature to another host
	switch {
	case req.URL.Scheme != HTTPS:
		return faultf(ErrForbidden, "it leads on to another scheme than https")
	case len(via) > maxRedirects:
		return faultf(ErrInvalid, "it leads on more than %d times", maxRedirects)
	}
	return nil
}

// refuseLocal keeps links from this machine and from what only its neighbours should reach, such as a
// cloud's metadata service. It sees the address that is dialled: a name can't hide it.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return faultf(ErrInvalid, "its host has no address that can be dialled")
	}
	if ip := addr.Addr().Unmap(); ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return faultf(ErrForbidden, "it leads to this machine or a link-local address, which links may not")
	}
	return nil
}

func (l links) read(ctx context.Context, u URL) (io.ReadCloser, Object, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Signed(), nil)
	if err != nil {
		return nil, Object{}, faultf(ErrInvalid, "it can't be asked for")
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, Object{}, err
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		err = faultf(kindOfAnswer(resp.StatusCode, ""), "the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	case resp.ContentLength < 0 && len(resp.TransferEncoding) == 0:
		err = faultf(ErrInvalid, "the server doesn't say where the content ends")
	}
	if err != nil {
		resp.Body.Close()
		return nil, Object{}, err
	}
	o := Object{URL: u, Size: resp.ContentLength, ETag: strings.Trim(resp.Header.Get("ETag"), `"`)}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		o.ModTime = t
	}
	return resp.Body, o, nil
}

// stat asks for the content and doesn't take it: the signature covers the method.
func (l links) stat(ctx context.Context, u URL) (Object, error) {
	body, o, err := l.read(ctx, u)
	if err != nil {
		return Object{}, err
	}
	return o, body.Close()
}

func (l links) list(context.Context, URL, string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		yield(Object{}, faultf(ErrInvalid, "a link can't be listed; name a folder of a storage, or list links in a manifest"))
	}
}

func (l links) write(context.Context, URL, io.ReaderAt, int64, bool) error {
	return faultf(ErrInvalid, "links are read only; write to a storage")
}

func (l links) remove(context.Context, URL) error {
	return faultf(ErrInvalid, "links are read only")
}

func (l links) sync(context.Context, URL) error {
	return faultf(ErrInvalid, "links are read only; write to a storage")
}
