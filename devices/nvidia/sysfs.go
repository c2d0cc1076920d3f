//go:build cgo && linux

package nvidia

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pciAddress is an address as sysfs writes it.
func pciAddress(domain, bus, device uint32) string {
	return fmt.Sprintf("%04x:%02x:%02x.0", domain, bus, device)
}

// besides answers the NUMA node and the CPUs beside a PCI device, as far as the host tells.
func besides(sysRoot, address string) (node *int, cpus string) {
	if address == "" {
		return nil, ""
	}
	dir := filepath.Join(sysRoot, "bus/pci/devices", address)
	if text, err := os.ReadFile(filepath.Join(dir, "numa_node")); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n >= 0 { // -1: the host doesn't say
			node = &n
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "local_cpulist")); err == nil {
		cpus = strings.TrimSpace(string(text))
	}
	return node, cpus
}

// bound answers the sorted PCI addresses of the devices that the driver holds; none without the driver.
func bound(sysRoot string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(sysRoot, "bus/pci/drivers/nvidia"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the GPUs of the driver: %w", err)
	}
	address := regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	var found []string
	for _, e := range entries {
		if address.MatchString(e.Name()) {
			found = append(found, e.Name())
		}
	}
	slices.Sort(found)
	return found, nil
}
