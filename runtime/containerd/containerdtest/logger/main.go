// Command logger is the part of drover that containers' shims run: "logger logger DIR".
package main

import (
	"fmt"
	"os"

	"github.com/drover-fleet/drover/runtime/containerd"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "logger" {
		fmt.Fprintln(os.Stderr, "usage: logger logger DIR")
		os.Exit(2)
	}
	if err := containerd.RunLogger(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
