//go:build !(cgo && linux)

package main

// addNVIDIA adds nothing: NVML's header needs cgo, and a build without it is for hosts with other devices.
func addNVIDIA(map[string]openLibrary) {}
