package dns

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table has the services iris, with two versions, and idle, and big.
type table struct{}

func (table) Resolve(project, service, remote string) (*fleetv1.ListEndpointsResponse, bool) {
	if project != "default" || remote == "" {
		return nil, false
	}
	resp := &fleetv1.ListEndpointsResponse{MaxAgeSeconds: 3}
	add := func(id, ip string, port, weight int32, version string) {
		resp.Endpoints = append(resp.Endpoints, &fleetv1.Endpoint{InstanceId: id, Ip: ip, Port: port, Weight: weight, Model: "m", ModelVersion: version})
	}
	switch service {
	case "iris":
		add("a", "10.0.0.1", 30001, 90, "0.0.1")
		add("b", "10.0.0.1", 30002, 90, "0.0.1")
		add("c", "10.0.0.2", 30001, 10, "0.0.2")
		add("d", "fd00::1", 30001, 90, "0.0.1")
		add("e", "no address", 30001, 90, "0.0.1")
	case "big":
		for i := range 500 {
			add(fmt.Sprint("i", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250), 30000, 100, "0.0.1")
		}
	case "idle":
	default:
		return nil, false
	}
	return resp, true
}

func ask(name string, kind uint16) *dns.Msg {
	return New(Config{Table: table{}, MaxAge: 3 * time.Second}).answer(new(dns.Msg).SetQuestion(name, kind), "192.0.2.1:5")
}

// shown is what of an answer's records matters.
func shown(records []dns.RR) string {
	var out []string
	for _, r := range records {
		switch r := r.(type) {
		case *dns.A:
			out = append(out, r.A.String())
		case *dns.AAAA:
			out = append(out, r.AAAA.String())
		case *dns.SRV:
			out = append(out, fmt.Sprintf("%s:%d*%d", strings.SplitN(r.Target, ".", 2)[0], r.Port, r.Weight))
		}
	}
	return strings.Join(out, " ")
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string
	}{
		{"iris.default.drover.", dns.TypeA, dns.RcodeSuccess, "10.0.0.1 10.0.0.2"},
		{"IRIS.Default.DROVER.", dns.TypeA, dns.RcodeSuccess, "10.0.0.1 10.0.0.2"},
		{"iris.default.drover.", dns.TypeAAAA, dns.RcodeSuccess, "fd00::1"},
		{"iris.default.drover.", dns.TypeSRV, dns.RcodeSuccess, "a:30001*2250 b:30002*2250 c:30001*1000 d:30001*2250 e:30001*2250"},
		{"iris.default.drover.", dns.TypeTXT, dns.RcodeSuccess, ""},
		{"c.iris.default.drover.", dns.TypeA, dns.RcodeSuccess, "10.0.0.2"},
		{"c.iris.default.drover.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"z.iris.default.drover.", dns.TypeA, dns.RcodeNameError, ""},
		{"a.b.iris.default.drover.", dns.TypeA, dns.RcodeNameError, ""},
		{"idle.default.drover.", dns.TypeA, dns.RcodeSuccess, ""},
		{"rose.default.drover.", dns.TypeA, dns.RcodeNameError, ""},
		{"iris.other.drover.", dns.TypeA, dns.RcodeNameError, ""},
		{"default.drover.", dns.TypeA, dns.RcodeSuccess, ""},
		{"drover.", dns.TypeA, dns.RcodeSuccess, ""},
		{".", dns.TypeA, dns.RcodeRefused, ""},
		{"example.org.", dns.TypeA, dns.RcodeRefused, ""},
		{"notdrover.", dns.TypeA, dns.RcodeRefused, ""},
	} {
		m := ask(c.name, c.kind)
		if m.Rcode != c.rcode || shown(m.Answer) != c.want {
			t.Errorf("%s %s: %s, %q", c.name, dns.TypeToString[c.kind], dns.RcodeToString[m.Rcode], shown(m.Answer))
		}
		if ours := c.rcode != dns.RcodeRefused; m.Authoritative != ours || ours && (len(m.Answer) == 0) != (len(m.Ns) == 1) {
			t.Errorf("%s: authoritative %v, %v", c.name, m.Authoritative, m.Ns)
		}
		for _, r := range append(slices.Clone(m.Answer), m.Ns...) {
			if r.Header().Ttl != 3 {
				t.Errorf("%s: %v", c.name, r)
			}
		}
	}
	if m := ask("iris.default.drover.", dns.TypeSRV); shown(m.Extra) != "10.0.0.1 10.0.0.1 10.0.0.2 fd00::1" {
		t.Errorf("the addresses of the targets: %q", shown(m.Extra))
	}
	if m := ask("drover.", dns.TypeSOA); len(m.Answer) != 1 {
		t.Errorf("the zone's authority: %v", m)
	}
}

func TestBadQueries(t *testing.T) {
	s := New(Config{Table: table{}})
	two := new(dns.Msg).SetQuestion("iris.default.drover.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := new(dns.Msg).SetQuestion("iris.default.drover.", dns.TypeA)
	update.Opcode = dns.OpcodeUpdate
	chaos := new(dns.Msg).SetQuestion("iris.default.drover.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	newer := new(dns.Msg).SetQuestion("iris.default.drover.", dns.TypeA).SetEdns0(4096, false)
	newer.IsEdns0().SetVersion(1)
	for name, c := range map[string]struct {
		m     *dns.Msg
		rcode int
	}{"no question": {&dns.Msg{}, dns.RcodeFormatError}, "two questions": {two, dns.RcodeFormatError}, "an update": {update, dns.RcodeNotImplemented},
		"another class": {chaos, dns.RcodeRefused}, "a newer EDNS": {newer, dns.RcodeBadVers}} {
		if m := s.answer(c.m, "192.0.2.1:5"); m.Rcode != c.rcode || len(m.Answer) > 0 {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// Over UDP a big answer is cut off, and over TCP it is whole.
func TestServing(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- New(Config{Table: table{}, Packets: packets, Listener: l, MaxAge: 3 * time.Second}).Run(ctx)
	}()
	for _, c := range []struct {
		net, addr string
		edns      uint16
		truncated bool
		most      int
	}{
		{"udp", packets.LocalAddr().String(), 0, true, dns.MinMsgSize}, {"udp", packets.LocalAddr().String(), 65000, true, maxUDP},
		{"tcp", l.Addr().String(), 0, false, dns.MaxMsgSize},
	} {
		q := new(dns.Msg).SetQuestion("big.default.drover.", dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(c.edns, false)
		}
		m, _, err := (&dns.Client{Net: c.net, UDPSize: 65000, Timeout: time.Minute}).Exchange(q, c.addr)
		if err != nil || m.Truncated != c.truncated || !c.truncated && len(m.Answer) != 500 || len(m.Answer) == 0 {
			t.Errorf("%s: %v, %d records", c.net, err, len(m.Answer))
		} else if m.Compress = true; m.Len() > c.most {
			t.Errorf("%s: %d bytes", c.net, m.Len())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"iris.default.drover.", "drover.", "\\000.default.drover.", "..", "a.b.c.d.drover."} {
		if raw, err := new(dns.Msg).SetQuestion(name, dns.TypeSRV).Pack(); err == nil {
			f.Add(raw)
		}
	}
	s := New(Config{Table: table{}, MaxAge: time.Second})
	f.Fuzz(func(t *testing.T, raw []byte) {
		q := &dns.Msg{}
		if q.Unpack(raw) != nil {
			return
		}
		m := s.answer(q, "192.0.2.1:5")
		if m.Id != q.Id || !m.Response {
			t.Errorf("%v is no answer to %v", m, q)
		}
		m.Truncate(maxUDP)
		if _, err := m.Pack(); err != nil {
			t.Errorf("%v can't be sent: %v", m, err)
		}
	})
}
