package main

import (
	"fmt"
	"os"

	"github.com/drover-fleet/drover/runtime/containerd"
)

// runLogger is `drover logger DIR`, the process that containerd's shim starts beside each container to write
// what it prints. It is no command of the tree: it must ignore signals and stay small, so it starts before
// anything else is set up.
func runLogger(dir string) int {
	if err := containerd.RunLogger(dir); err != nil {
		fmt.Fprintln(os.Stderr, "drover:", err)
		return exitFailed
	}
	return exitDone
}
