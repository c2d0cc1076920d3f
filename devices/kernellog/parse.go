package kernellog

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"

	"github.com/drover-fleet/drover/devices"
)

// Message of a driver about a device.
type Message struct {
	PCIAddress string // as devices.Device has it: "0000:3b:00.0"
	Kind       devices.SignalKind
	Code       int64
	Text       string
}

// The spellings of NVIDIA's driver, of which the older one has no "PCI:", some have the function, and those
// about a slice of a GPU its number. What follows the code (pid, name, words) differs by driver and code.
//
//	NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
//	NVRM: Xid (0000:03:00): 14, Channel 00000001
//	NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 13, pid=1234, name=python, Graphics SM Warp Exception
//	NVRM: GPU 0000:91:00.0: GPU has fallen off the bus.
var (
	xidLine  = regexp.MustCompile(`^NVRM: Xid \((?:PCI:)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?)(?: GPU-I:[0-9A-Fa-f]+)?\): ([0-9]{1,9})(?:, *(.*))?$`)
	lostLine = regexp.MustCompile(`^NVRM: GPU (?:at )?(?:PCI:)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?): (GPU has fallen off the bus\.?)$`)
)

// longestText that a message keeps.
const longestText = 512

// ParseRecord reads a record of /dev/kmsg: "priority,sequence,microseconds,flags[,…];text", and lines about it
// that begin with a space. Not ok when no device is its subject.
func ParseRecord(record []byte) (Message, bool) {
	_, text, found := bytes.Cut(record, []byte{';'})
	if !found {
		return Message{}, false
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return Parse(string(text))
}

// Parse reads the text of a line.
func Parse(line string) (Message, bool) {
	if !strings.HasPrefix(line, "NVRM: ") {
		return Message{}, false
	}
	line = strings.TrimRight(line, " \r\n")
	if m := xidLine.FindStringSubmatch(line); m != nil {
		code, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil {
			return Message{}, false
		}
		return Message{PCIAddress: address(m[1]), Kind: devices.SignalXID, Code: code, Text: clip(m[3])}, true
	}
	if m := lostLine.FindStringSubmatch(line); m != nil {
		return Message{PCIAddress: address(m[1]), Kind: devices.SignalLost, Text: clip(m[2])}, true
	}
	return Message{}, false
}

// address in sysfs's spelling: a domain of four digits unless it needs more, and the function.
func address(told string) string {
	domain, rest, _ := strings.Cut(strings.ToLower(told), ":")
	for len(domain) > 4 && domain[0] == '0' {
		domain = domain[1:]
	}
	if !strings.Contains(rest, ".") {
		rest += ".0"
	}
	return domain + ":" + rest
}

func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), longestText)], "")
}
