package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/ascend"
	fakedevices "github.com/drover-fleet/drover/devices/fake"
	"github.com/drover-fleet/drover/devices/probe"
)

const (
	probeCommand = "device-probe"
	noDevices    = "none"
)

// openLibrary makes a vendor's backend on its library, for a process that it may take along.
type openLibrary func(path string, log *slog.Logger) devices.Backend

// vendors that this build has.
func vendors() map[string]openLibrary {
	all := map[string]openLibrary{
		"ascend": func(path string, log *slog.Logger) devices.Backend {
			return ascend.New(ascend.Config{LibraryPath: path, Logger: log})
		},
	}
	addNVIDIA(all)
	return all
}

// runDeviceProbe is `drover device-probe --vendor V`, the process that loads a vendor's library for the
// agent. Like the logger it is no command of the tree.
func runDeviceProbe(args []string) int {
	if err := deviceProbe(args); err != nil {
		fmt.Fprintln(os.Stderr, "drover:", err)
		return exitFailed
	}
	return exitDone
}

func deviceProbe(args []string) error {
	flags := flag.NewFlagSet(probeCommand, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	vendor, library := flags.String("vendor", "", ""), flags.String("library", "", "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", probeCommand, err)
	}
	open := vendors()[*vendor]
	if open == nil {
		return fmt.Errorf("%s: vendor %q is not one of %s", probeCommand, *vendor, vendorNames())
	}
	keepSmall(os.Getenv)
	conn, err := probe.Conn()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{} // the agent's log has it
		}
		return a
	}}))
	return probe.Serve(context.Background(), open(*library, log), conn)
}

func vendorNames() string {
	return strings.Join(slices.Sorted(maps.Keys(vendors())), ", ")
}

// pciDevices is where a vendor's devices show on the PCI bus: their vendor ID, and the first digits of their class:
// display controllers and processing accelerators (PCI Code and ID Assignment Specification).
var pciDevices = map[string]struct{ vendor, class string }{
	"nvidia": {"0x10de", "0x03"},
	"ascend": {"0x19e5", "0x12"},
}

// onPCI tells whether a vendor's device is on the PCI bus below sysfs.
func onPCI(sysfs, vendor string) bool {
	want, known := pciDevices[vendor]
	if !known {
		return true
	}
	all, err := filepath.Glob(filepath.Join(sysfs, "bus/pci/devices/*"))
	if err != nil {
		return true
	}
	for _, dir := range all {
		id, _ := os.ReadFile(filepath.Join(dir, "vendor")) // a device that goes away meanwhile isn't there
		class, _ := os.ReadFile(filepath.Join(dir, "class"))
		if strings.TrimSpace(string(id)) == want.vendor && strings.HasPrefix(string(class), want.class) {
			return true
		}
	}
	return false
}

// probeBackend asks a vendor's library in a child of this very program, even after its file was replaced. present may
// be nil.
func probeBackend(vendor, library string, present func() bool, log *slog.Logger) devices.Backend {
	command := []string{"drover", probeCommand, "--vendor", vendor}
	if library != "" {
		command = append(command, "--library", library)
	}
	return probe.New(probe.Config{Vendor: vendor, Program: "/proc/self/exe", Command: command, Present: present, Logger: log})
}

// deviceBackends makes the backends that a configuration names.
func deviceBackends(cfg agentConfig, log *slog.Logger) ([]devices.Backend, error) {
	known := vendors()
	for vendor := range cfg.DeviceLibraries {
		if known[vendor] == nil {
			return nil, fmt.Errorf("device_libraries: vendor %q is not one of %s", vendor, vendorNames())
		}
	}
	words, made, err := deviceWords(cfg.Devices)
	if err != nil {
		return nil, err
	}
	named := len(words) > 0 // one that is named is asked even where the PCI bus shows none, as on some boards
	switch {
	case len(words) == 0 && made == "":
		words = slices.Sorted(maps.Keys(known))
	case slices.Contains(words, noDevices):
		if len(words) > 1 || made != "" {
			return nil, fmt.Errorf("devices %q: %s stands alone", strings.Join(cfg.Devices, ","), noDevices)
		}
		return nil, nil
	}
	var backends []devices.Backend
	for i, vendor := range words {
		if known[vendor] == nil || slices.Contains(words[:i], vendor) {
			return nil, fmt.Errorf("devices %q: write %s (each once), %s, or for example fake:8xH100-80GB", vendor, vendorNames(), noDevices)
		}
		library := cfg.DeviceLibraries[vendor]
		var present func() bool
		if !named && library == "" {
			present = func() bool { return onPCI("/sys", vendor) }
		}
		backends = append(backends, probeBackend(vendor, library, present, log))
	}
	if made != "" {
		b, err := fakedevices.Parse(made)
		if err != nil {
			return nil, err
		}
		if cfg.NodeName != "" {
			b.Name = cfg.NodeName
		}
		backends = append(backends, b)
	}
	return backends, nil
}

// deviceWords splits a list into vendors and what fake devices there are. These have commas of their own,
// by which flags and environment split them: what follows a fake one belongs to it.
func deviceWords(list []string) (words []string, made string, err error) {
	for _, entry := range list {
		for word := range strings.SplitSeq(entry, ",") {
			vendor, what, described := strings.Cut(word, ":")
			switch {
			case made != "" && vendor == fakedevices.Vendor:
				return nil, "", errors.New("devices: name fake ones once: fake:8xH100-80GB,2xAscend910B-64GB")
			case described && vendor == fakedevices.Vendor && what != "":
				made = what
			case made != "":
				made += "," + word
			default:
				words = append(words, word)
			}
		}
	}
	return words, made, nil
}
