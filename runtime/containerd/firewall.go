package containerd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const firewallTimeout = 15 * time.Second

// firewall owns four iptables chains and the jumps to them. Each rule carries a comment made from its
// text, by which it is found again: iptables prints rules in other words than it was given, and
// each version in its own.
type firewall struct {
	bridge, subnet string

	mu sync.Mutex
}

// chain is one of ours, with what leads to it.
type chain struct {
	table, name string
	rules       []string
	jumps       []jump
}

// jump leads from a built-in chain.
type jump struct{ from, match string }

// chains answers everything that must stand, given the published ports.
func (f *firewall) chains(recs []record) []chain {
	b := f.bridge
	var ports []string
	for _, rec := range recs {
		if rec.HostPort > 0 && rec.IP != "" && !rec.deleting {
			ports = append(ports, fmt.Sprintf("-p tcp -m tcp --dport %d -j DNAT --to-destination %s:%d", rec.HostPort, rec.IP, rec.Port))
		}
	}
	return []chain{
		{"nat", "DROVER-PORTS-" + b, ports, []jump{
			{"PREROUTING", "! -i " + b + " -m addrtype --dst-type LOCAL"},
			{"OUTPUT", "-m addrtype --dst-type LOCAL"},
		}},
		{"nat", "DROVER-POST-" + b, []string{
			"-s 127.0.0.0/8 -o " + b + " -j MASQUERADE",
			"-s " + f.subnet + " ! -o " + b + " -j MASQUERADE",
		}, []jump{{"POSTROUTING", ""}}},
		{"filter", "DROVER-IN-" + b, []string{
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-p tcp -j REJECT --reject-with tcp-reset",
			"-j REJECT --reject-with icmp-port-unreachable",
		}, []jump{{"INPUT", "-i " + b}}},
		{"filter", "DROVER-FWD-" + b, []string{
			"-i " + b + " -o " + b + " -p tcp -j REJECT --reject-with tcp-reset",
			"-i " + b + " -o " + b + " -j REJECT --reject-with icmp-port-unreachable",
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-i " + b + " -d 169.254.0.0/16 -p tcp -j REJECT --reject-with tcp-reset",
			"-i " + b + " -d 169.254.0.0/16 -j REJECT --reject-with icmp-port-unreachable",
			"-i " + b + " -j ACCEPT",
			"-o " + b + " -m conntrack --ctstate DNAT -j ACCEPT",
			"-o " + b + " -j REJECT --reject-with icmp-port-unreachable",
		}, []jump{{"FORWARD", "-i " + b}, {"FORWARD", "-o " + b}}},
	}
}

// tagged adds the comment to a rule, before its target.
func tagged(rule, tag string) string {
	at := strings.LastIndex(rule, "-j ")
	return rule[:at] + "-m comment --comment " + tag + " " + rule[at:]
}

func tagOf(chain, rule string) string {
	sum := sha256.Sum256([]byte(chain + " " + rule))
	return "drover:" + hex.EncodeToString(sum[:8])
}

func (j jump) rule(target string) string { return strings.TrimSpace(j.match + " -j " + target) }

// publish makes the port maps those of the records, in one transaction.
func (f *firewall) publish(ctx context.Context, recs []record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in bytes.Buffer
	writeChains(&in, "nat", f.chains(recs)[:1], nil)
	return f.restore(ctx, in.Bytes())
}

// repair puts everything back when something is missing, and answers how many rules that were.
func (f *firewall) repair(ctx context.Context, recs []record) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.saved(ctx)
	if err != nil {
		return 0, err
	}
	want := f.chains(recs)
	missing := 0
	lost := map[string]bool{} // tags of jumps
	for _, c := range want {
		tags := make([]string, len(c.rules))
		for i, rule := range c.rules {
			tags[i] = tagOf(c.name, rule)
		}
		missing += difference(tags, have[c.table+" "+c.name])
		for _, j := range c.jumps {
			tag := tagOf(j.from, j.rule(c.name))
			if !slices.Contains(have[c.table+" "+j.from], tag) {
				lost[tag] = true
				missing++
			}
		}
	}
	if missing == 0 {
		return 0, nil
	}
	var in bytes.Buffer
	writeChains(&in, "nat", want[:2], lost)
	writeChains(&in, "filter", want[2:], lost)
	return missing, f.restore(ctx, in.Bytes())
}

// difference counts what is missing; rules too many or in another order count as one.
func difference(want, have []string) int {
	n := 0
	for _, tag := range want {
		if !slices.Contains(have, tag) {
			n++
		}
	}
	if n == 0 && !slices.Equal(want, have) {
		n = 1
	}
	return n
}

// writeChains writes whole chains, and the jumps that are lost, as input of iptables-restore.
func writeChains(in *bytes.Buffer, table string, chains []chain, lost map[string]bool) {
	fmt.Fprintf(in, "*%s\n", table)
	for _, c := range chains {
		fmt.Fprintf(in, ":%s - [0:0]\n", c.name)
	}
	for _, c := range chains {
		for _, rule := range c.rules {
			fmt.Fprintf(in, "-A %s %s\n", c.name, tagged(rule, tagOf(c.name, rule)))
		}
		for _, j := range c.jumps {
			rule := j.rule(c.name)
			if tag := tagOf(j.from, rule); lost[tag] {
				fmt.Fprintf(in, "-I %s 1 %s\n", j.from, tagged(rule, tag))
			}
		}
	}
	in.WriteString("COMMIT\n")
}

// remove takes all chains and jumps away.
func (f *firewall) remove(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.saved(ctx)
	if err != nil {
		return err
	}
	var in bytes.Buffer
	chains := f.chains(nil)
	for _, part := range [][]chain{chains[:2], chains[2:]} {
		table := part[0].table
		fmt.Fprintf(&in, "*%s\n", table)
		for _, c := range part {
			fmt.Fprintf(&in, ":%s - [0:0]\n", c.name)
			for _, j := range c.jumps {
				rule := j.rule(c.name)
				tag := tagOf(j.from, rule)
				for _, found := range have[table+" "+j.from] {
					if found == tag {
						fmt.Fprintf(&in, "-D %s %s\n", j.from, tagged(rule, tag))
					}
				}
			}
		}
		for _, c := range part {
			fmt.Fprintf(&in, "-X %s\n", c.name)
		}
		in.WriteString("COMMIT\n")
	}
	return f.restore(ctx, in.Bytes())
}

func (f *firewall) restore(ctx context.Context, in []byte) error {
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "iptables-restore", "--noflush", "-w", strconv.Itoa(int(firewallTimeout.Seconds())))
	cmd.Stdin = bytes.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("write iptables rules: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

var tagPattern = regexp.MustCompile(`--comment "?(drover:[0-9a-f]{16})"?(?: |$)`)

// saved reads our rules: the tags in each "table chain", in order.
func (f *firewall) saved(ctx context.Context) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "iptables-save")
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read iptables rules: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	return parseSaved(out)
}

func parseSaved(out []byte) (map[string][]string, error) {
	have := map[string][]string{}
	table := ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
			continue
		}
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		if m := tagPattern.FindStringSubmatch(rest); m != nil {
			key := table + " " + name
			have[key] = append(have[key], m[1])
		} else if strings.HasPrefix(name, "DROVER-") {
			have[table+" "+name] = append(have[table+" "+name], "foreign")
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read iptables rules: %w", err)
	}
	return have, nil
}
