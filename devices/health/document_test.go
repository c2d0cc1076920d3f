package health

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/device-health.md")

const documentHead = `# Device health

What the agent makes of each sign of a device's health. This page is made of the table in devices/health: change
that, and run ` + "`go generate ./devices/health`" + `.

Actions, each with those above it:

| action | what happens |
| --- | --- |
| none | nothing: the device is well, or the sign is about an application |
| observe | the device is used; the sign is told and counted |
| drain | nothing new is placed on the device |
| evict | its instances' endpoints are withdrawn, then they are replaced elsewhere |
| reset-needed | as evict, until the device was reset |
| reboot-needed | as evict, until the node was rebooted |

A device that is drained or worse comes back when its condition was measured after the fault and showed none.
The measurement that counts comes at least a minute after the fault; the wait doubles with each relapse, to an
hour at most, and halves for each hour in health. After a reset or reboot that is needed there must be a sign of it:
NVML's recovery action is "none", the driver tells of the reset, or its error counters started anew. Older NVIDIA
drivers give none of these signs; restart the agent after the reset. A driver that was only silent is believed as soon as
it answers, unless it falls silent again within the hour.

`

// document renders the table.
func document(rows []Row) string {
	var b strings.Builder
	b.WriteString(documentHead)
	b.WriteString("| source | sign | meaning | action | state |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range rows {
		signs := strings.ReplaceAll(strings.Join(r.Signs, ", "), others, "any other")
		action := string(r.Action)
		if r.Action == None {
			action = "none"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Source, signs, r.Meaning, action, r.state())
	}
	return b.String()
}

func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "device-health.md")
	want := document(Rows())
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != want {
		t.Errorf("docs/device-health.md is out of date: go generate ./devices/health (%v)", err)
	}
}
