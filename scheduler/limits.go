package scheduler

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// limits bound what callers may take of this scheduler: memory, streams, goroutines and connections. What is beyond
// them is refused at once, in one line.
type limits struct {
	maxOperatorMessage int // bytes of a request; agents' messages may have maxMessage
	streamsPerClient   int // of operators: watches, logs, exec, backups; a client is a token at an address
	streams            int // of all operators together
	streamsPerAccount  int
	relaysPerAccount   int    // of streams, those of logs and exec, of which an agent has an end; session.Config.MaxRelays is for all
	callsPerConnection uint32 // more than streams: another scheduler passes all of its on one, which it also asks on how this one is
	grpcConnections    int    // each agent has one
	httpConnections    int
	dnsConnections     int
	httpRequests       int // under way at once, those aside that wait
	waiting            int // watches of look-ups, and look-ups that wait
	waitingPerAccount  int
	firstMessage       time.Duration // after which a gRPC call ends of which no message has come

	refusals *rate.Limiter // of gRPC calls with a deadline, as they arrive

	underWay atomic.Int64 // requests

	mu        sync.Mutex
	open      int
	byClient  map[string]int
	byShare   map[share]int
	held      int // that wait
	byAccount map[string]int
}

func defaultLimits() *limits {
	return &limits{
		maxOperatorMessage: 4 << 20, streamsPerClient: 256, streams: 4096, streamsPerAccount: 3072, relaysPerAccount: 192, callsPerConnection: 16_384,
		grpcConnections: 32_768, httpConnections: 20_480, dnsConnections: 256, httpRequests: 1024, waiting: 16_384, waitingPerAccount: 12_288,
		firstMessage: 15 * time.Second, refusals: rate.NewLimiter(1000, 1000), byClient: map[string]int{}, byShare: map[share]int{}, byAccount: map[string]int{},
	}
}

// share is what an account has of the streams, or of the relays among them.
type share struct {
	account string
	relays  bool
}

// agentMethods are exempt from what is for operators: a node has one session, and relays are ordered by this scheduler.
const agentMethods = "/fleet.v1.AgentService/"

func (l *limits) tooLong(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	if n := proto.Size(msg); n > l.maxOperatorMessage {
		return status.Errorf(codes.ResourceExhausted, "the request has %d bytes, at most %d are taken: send less at once", n, l.maxOperatorMessage)
	}
	return nil
}

func (l *limits) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := l.tooLong(req); err != nil && !strings.HasPrefix(info.FullMethod, agentMethods) {
		return nil, err
	}
	return next(ctx, req)
}

// stream is for after the caller is known.
func (l *limits) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, agentMethods) {
		return next(srv, ss)
	}
	if info.FullMethod == fleetv1.LookupService_Watch_FullMethodName { // it calls hold
		return next(srv, &limitedStream{ss, l})
	}
	return l.counted(srv, ss, info, next)
}

// counted is a stream that counts among those of its client and account.
func (l *limits) counted(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	caller, _ := auth.FromContext(ss.Context())
	shares := []share{{account: caller.Account}}
	if info.FullMethod == fleetv1.InstanceService_GetInstanceLogs_FullMethodName || info.FullMethod == fleetv1.InstanceService_ExecInstance_FullMethodName {
		shares = append(shares, share{caller.Account, true})
	}
	client := clientOf(ss.Context())
	if err := l.take(client, shares); err != nil {
		return err
	}
	defer l.giveBack(client, shares)
	return next(srv, &limitedStream{ss, l})
}

func clientOf(ctx context.Context) string {
	caller, _ := auth.FromContext(ctx)
	host := auth.Address(ctx)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return caller.Name + "@" + host
}

func (l *limits) take(client string, shares []share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range shares {
		most, what := l.streamsPerAccount, "streams"
		if s.relays {
			most, what = l.relaysPerAccount, "streams of logs and exec"
		}
		if l.byShare[s] >= most {
			return status.Errorf(codes.ResourceExhausted, "account %q has %d %s open on this scheduler, which is its limit: end some of them", s.account, most, what)
		}
	}
	switch {
	case l.byClient[client] >= l.streamsPerClient:
		return status.Errorf(codes.ResourceExhausted, "%s has %d streams open already: end some of them", client, l.streamsPerClient)
	case l.open >= l.streams:
		return status.Errorf(codes.ResourceExhausted, "%d streams are open on this scheduler already: try again later, or another scheduler", l.streams)
	}
	l.open++
	l.byClient[client]++
	for _, s := range shares {
		l.byShare[s]++
	}
	return nil
}

func (l *limits) giveBack(client string, shares []share) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.byClient[client]--; l.byClient[client] == 0 {
		delete(l.byClient, client)
	}
	for _, s := range shares {
		if l.byShare[s]--; l.byShare[s] == 0 {
			delete(l.byShare, s)
		}
	}
}

type limitedStream struct {
	grpc.ServerStream
	l *limits
}

func (s *limitedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.l.tooLong(m)
}

// boundedListener accepts so many connections at once; of those beyond it says goodbye and closes them.
type boundedListener struct {
	net.Listener
	slots   chan struct{}
	goodbye string
}

func bound(l net.Listener, connections int, goodbye string) net.Listener {
	return &boundedListener{l, make(chan struct{}, connections), goodbye}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &boundedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			refuse(c, l.goodbye)
		}
	}
}

// refuse doesn't wait for the caller: what it writes fits into the kernel's buffer. Closing may lose it, which is then all
// that the caller is told.
func refuse(c net.Conn, goodbye string) {
	if goodbye != "" && c.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = c.Write([]byte(goodbye)) // a caller that is gone needs none
	}
	_ = c.Close()
}

type boundedConn struct {
	net.Conn
	free func()
}

func (c *boundedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// tooManyConnections is an HTTP answer.
const tooManyConnections = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// requests answers 429 while too many requests are under way.
func (l *limits) requests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer l.underWay.Add(-1)
		if l.underWay.Add(1) > int64(l.httpRequests) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests are under way on this scheduler: try again, or another scheduler", http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hold implements lookup.Config.Hold. An HTTP request that waits doesn't count as under way meanwhile.
func (l *limits) hold(account string, request bool) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held >= l.waiting || l.byAccount[account] >= l.waitingPerAccount {
		return nil, false
	}
	l.held++
	l.byAccount[account]++
	if request {
		l.underWay.Add(-1)
	}
	return func() {
		if request {
			l.underWay.Add(1)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held--
		if l.byAccount[account]--; l.byAccount[account] == 0 {
			delete(l.byAccount, account)
		}
	}, true
}

// watches is how many hold.
func (l *limits) watches() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
