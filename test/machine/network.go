package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Network is a network of hosts, each a network namespace with one address. This process carries every packet
// between them, so a test can lose, delay or hold back what goes from one host to another, in either direction by
// itself, at any time. Host 0 is the machine's own namespace: the test, its clients and its agents.
type Network struct {
	Hosts []*Host

	mu    sync.Mutex
	links map[[2]int]Link // from, to
}

// Host is one of a Network's.
type Host struct {
	Addr netip.Addr
	name string // of its namespace; empty for the machine's own
	tun  *os.File
}

// Link is what becomes of packets from one host to another. The zero value carries them at once.
type Link struct {
	Down  bool
	Loss  float64 // share of the packets that is lost
	Delay time.Duration
}

// networkPrefix and the PID of the test begin the names of namespaces.
const networkPrefix = "drover-net-"

// networks counts those of this process; they have different addresses, of a range that is for tests of
// networks (RFC 2544).
var networks atomic.Int32

// NewNetwork makes so many hosts besides the machine's own. They are gone when the test ends.
func NewNetwork(t testing.TB, hosts int) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, AND IT MATTERS: network namespaces need root")
	}
	removeOrphans(t)
	number := networks.Add(1)
	subnet := freeSubnet(t, os.Getpid()*16+int(number))
	n := &Network{links: map[[2]int]Link{}}
	var carriers sync.WaitGroup
	t.Cleanup(func() {
		for _, h := range n.Hosts {
			h.tun.Close() // deletes the device and ends its carrier
		}
		carriers.Wait()
		for _, h := range n.Hosts[min(1, len(n.Hosts)):] {
			ip(t, "netns", "del", h.name)
		}
	})
	for i := range hosts + 1 {
		h := &Host{Addr: address(subnet, i+1)}
		device := fmt.Sprintf("dn%d-%d-%d", os.Getpid()%1000000, number, i)
		h.tun = openTun(t, device)
		n.Hosts = append(n.Hosts, h)
		var in []string
		if i > 0 {
			h.name = fmt.Sprintf("%s%d-%d-%d", networkPrefix, os.Getpid(), number, i)
			ip(t, "netns", "add", h.name)
			ip(t, "link", "set", device, "netns", h.name)
			in = []string{"-n", h.name}
			ip(t, append(in, "link", "set", "lo", "up")...)
		}
		ip(t, append(in, "addr", "add", h.Addr.String()+"/25", "dev", device)...)
		ip(t, append(in, "link", "set", device, "up")...)
	}
	for i := range n.Hosts {
		carriers.Go(func() { n.carry(i) })
	}
	return n
}

// subnets of 126 addresses are what 198.18.0.0/15 has.
const subnets = 1024

func address(subnet, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18 + byte(subnet>>9), byte(subnet >> 1), byte(subnet&1)<<7 + byte(host)})
}

// freeSubnet is the first from a number on that this machine has no address in.
func freeSubnet(t testing.TB, from int) int {
	t.Helper()
	used, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range subnets {
		subnet := (from + i) % subnets
		taken := func(a net.Addr) bool {
			return strings.HasPrefix(a.String(), address(subnet, 1).String()+"/")
		}
		if !slices.ContainsFunc(used, taken) {
			return subnet
		}
	}
	t.Fatal("every test network is in use")
	return 0
}

// Set says what becomes of packets from one host to another from now on.
func (n *Network) Set(from, to int, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[[2]int{from, to}] = l
}

// Between sets both directions between a host and each of the others named; all others when none is.
func (n *Network) Between(host int, l Link, others ...int) {
	if len(others) == 0 {
		for i := range n.Hosts {
			others = append(others, i)
		}
	}
	for _, o := range others {
		if o != host {
			n.Set(host, o, l)
			n.Set(o, host, l)
		}
	}
}

// carry takes what one host sends to its receivers until its device is closed.
func (n *Network) carry(from int) {
	packet := make([]byte, 1<<16)
	for {
		size, err := n.Hosts[from].tun.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || size < 20 || packet[0]>>4 != 4 {
			continue // the device is down yet, or it is not IPv4
		}
		to := n.receiver(binary.BigEndian.Uint32(packet[16:]))
		if to < 0 {
			continue
		}
		n.mu.Lock()
		l := n.links[[2]int{from, to}]
		n.mu.Unlock()
		if l.Down || l.Loss > 0 && rand.Float64() < l.Loss {
			continue
		}
		if l.Delay == 0 {
			_, _ = n.Hosts[to].tun.Write(packet[:size]) // a packet that is not taken is lost
			continue
		}
		later := append([]byte(nil), packet[:size]...)
		time.AfterFunc(l.Delay, func() { _, _ = n.Hosts[to].tun.Write(later) })
	}
}

func (n *Network) receiver(addr uint32) int {
	for i, h := range n.Hosts {
		if a := h.Addr.As4(); binary.BigEndian.Uint32(a[:]) == addr {
			return i
		}
	}
	return -1
}

// Wrap is the command line that runs a program on the host.
func (h *Host) Wrap(program string, args ...string) (string, []string) {
	if h.name == "" {
		return program, args
	}
	return "ip", append([]string{"netns", "exec", h.name, program}, args...)
}

// Schedulers are the options of schedulers of which the first is on host 1, and so on.
func (n *Network) Schedulers() SchedulersOptions {
	return SchedulersOptions{
		Host: func(i int) string { return n.Hosts[i].Addr.String() },
		Command: func(i int, argv []string) []string {
			program, args := n.Hosts[i].Wrap(argv[0], argv[1:]...)
			return append([]string{program}, args...)
		},
	}
}

func openTun(t testing.TB, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		t.Fatalf("make network device %s: %v", name, errors.Join(err, unix.Close(fd)))
	}
	return os.NewFile(uintptr(fd), name)
}

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// removeOrphans removes namespaces of tests that were killed.
func removeOrphans(t testing.TB) {
	for line := range strings.Lines(ip(t, "netns", "list")) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, ours := strings.CutPrefix(name, networkPrefix)
		id, _, _ = strings.Cut(id, "-")
		if pid, err := strconv.Atoi(id); ours && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = exec.Command("ip", "netns", "del", name).Run() // another test may be faster
		}
	}
}
