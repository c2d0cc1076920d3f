package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	zone        = "drover."
	maxUDP      = 1232
	timeout     = 5 * time.Second // of a TCP connection, reading, writing and idle
	maxQueries  = 128             // on one TCP connection
	stopTimeout = time.Second
	weightScale = 100 // SRV weights are whole, and a version's is divided among its instances
)

// Table has the endpoints of services.
type Table interface {
	// Resolve answers a service's endpoints in the network of a caller, which may be none; exists is false when there is
	// no such service.
	Resolve(project, service, remote string) (resp *fleetv1.ListEndpointsResponse, exists bool)
}

// Config is what a Server is made of. The connections are the Server's to close.
type Config struct {
	Table    Table
	Packets  net.PacketConn
	Listener net.Listener
	// MaxAge is how long an answer may be kept that there is nothing.
	MaxAge time.Duration
}

// Server answers queries.
type Server struct{ cfg Config }

// New makes a Server that does nothing before Run.
func New(cfg Config) *Server { return &Server{cfg} }

// Run serves until ctx ends, which is no error. It is called once.
func (s *Server) Run(ctx context.Context) error {
	servers := []*dns.Server{
		{PacketConn: s.cfg.Packets, Handler: s, UDPSize: dns.DefaultMsgSize, ReadTimeout: timeout, WriteTimeout: timeout},
		{Listener: s.cfg.Listener, Handler: s, ReadTimeout: timeout, WriteTimeout: timeout, MaxTCPQueries: maxQueries,
			IdleTimeout: func() time.Duration { return timeout }},
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	failures := make(chan error, len(servers))
	for _, one := range servers {
		started := make(chan struct{})
		one.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		running.Go(func() {
			defer close(ended)
			if err := one.ActivateAndServe(); err != nil {
				failures <- fmt.Errorf("serve DNS: %w", err)
				cancel()
			}
		})
		running.Go(func() {
			<-ctx.Done()
			select {
			case <-started:
			case <-ended:
				return
			}
			stopping, done := context.WithTimeout(context.Background(), stopTimeout)
			defer done()
			_ = one.ShutdownContext(stopping) // the connections that it waits for have deadlines of their own
		})
	}
	running.Wait()
	cancel()
	close(failures)
	var errs []error
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer := s.answer(query, w.RemoteAddr().String())
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = max(size, min(int(opt.UDPSize()), maxUDP))
		}
	}
	answer.Truncate(size)
	_ = w.WriteMsg(answer) // a client that went away is its own loss
}

// answer answers one query.
func (s *Server) answer(query *dns.Msg, remote string) *dns.Msg {
	m := &dns.Msg{}
	switch {
	case len(query.Question) != 1:
		return m.SetRcode(query, dns.RcodeFormatError)
	case query.Opcode != dns.OpcodeQuery:
		return m.SetRcode(query, dns.RcodeNotImplemented)
	}
	m.SetReply(query)
	m.Authoritative = true
	if opt := query.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, false)
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	q := query.Question[0]
	if q.Qclass != dns.ClassINET || !dns.IsSubDomain(zone, q.Name) {
		m.Rcode, m.Authoritative = dns.RcodeRefused, false
		return m
	}
	labels := dns.SplitDomainName(q.Name)
	labels = labels[:len(labels)-1]
	if found := s.records(m, q, labels, remote); !found {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, s.authority())
	}
	return m
}

// records adds what is asked for; it answers whether the name exists.
func (s *Server) records(m *dns.Msg, q dns.Question, labels []string, remote string) (exists bool) {
	n := len(labels)
	if n < 2 || n > 3 {
		if n == 0 && q.Qtype == dns.TypeSOA {
			m.Answer = append(m.Answer, s.authority())
		}
		return n < 2
	}
	resp, exists := s.find(labels[n-1], labels[n-2], remote)
	if !exists {
		return false
	}
	ttl := uint32(resp.GetMaxAgeSeconds())
	if n == 3 {
		for _, e := range resp.GetEndpoints() {
			if strings.EqualFold(e.GetInstanceId(), labels[0]) {
				m.Answer = append(m.Answer, addresses(q, e, ttl)...)
				return true
			}
		}
		return false
	}
	seen := map[string]bool{}
	instances := map[string]int32{}
	for _, e := range resp.GetEndpoints() {
		instances[e.GetModel()+"@"+e.GetModelVersion()]++
	}
	for _, e := range resp.GetEndpoints() {
		if q.Qtype == dns.TypeSRV {
			target := e.GetInstanceId() + "." + dns.Fqdn(q.Name)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV, ttl), Port: uint16(e.GetPort()), Target: target,
				Weight: uint16(e.GetWeight() * weightScale / instances[e.GetModel()+"@"+e.GetModelVersion()])})
			for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
				m.Extra = append(m.Extra, addresses(dns.Question{Name: target, Qtype: kind}, e, ttl)...)
			}
		} else if !seen[e.GetIp()] {
			seen[e.GetIp()] = true
			m.Answer = append(m.Answer, addresses(q, e, ttl)...)
		}
	}
	return true
}

func (s *Server) find(project, service, remote string) (*fleetv1.ListEndpointsResponse, bool) {
	if resp, ok := s.cfg.Table.Resolve(project, service, remote); ok {
		return resp, true
	}
	return s.cfg.Table.Resolve(strings.ToLower(project), strings.ToLower(service), remote)
}

// addresses is the record of an endpoint's address if it is of the family that is asked for.
func addresses(q dns.Question, e *fleetv1.Endpoint, ttl uint32) []dns.RR {
	ip, err := netip.ParseAddr(e.GetIp())
	switch {
	case err != nil:
	case q.Qtype == dns.TypeA && ip.Is4():
		return []dns.RR{&dns.A{Hdr: header(q.Name, dns.TypeA, ttl), A: ip.AsSlice()}}
	case q.Qtype == dns.TypeAAAA && ip.Is6():
		return []dns.RR{&dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA, ttl), AAAA: ip.AsSlice()}}
	}
	return nil
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// authority says how long it may be kept that there is nothing.
func (s *Server) authority() dns.RR {
	ttl := uint32(s.cfg.MaxAge / time.Second)
	return &dns.SOA{Hdr: header(zone, dns.TypeSOA, ttl), Ns: "ns." + zone, Mbox: "hostmaster." + zone, Serial: 1, Refresh: ttl, Retry: ttl, Expire: ttl, Minttl: ttl}
}
