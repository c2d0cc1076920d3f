//go:build cgo && linux

package main

import (
	"log/slog"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/nvidia"
)

func addNVIDIA(all map[string]openLibrary) {
	all[nvidia.Vendor] = func(path string, log *slog.Logger) devices.Backend {
		return nvidia.New(nvidia.Config{LibraryPath: path, Logger: log})
	}
}
