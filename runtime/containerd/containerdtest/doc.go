// Package containerdtest gives tests a real containerd of their own, a runtime on it, and an image to
// run, and takes all of it away when the test ends. Nothing of the machine's own containerd is touched:
// root, state, socket, bridge, subnet, cgroup parent and iptables chains carry names made for the test.
//
// The image is built from this module's own programs and served from a registry in the test's process on
// 127.0.0.1: /server is the conformance suite's server, /app does on request what faults need (see its
// package). Both are static, so the image holds nothing else.
//
// go-containerregistry makes the image and the registry: the same library with which the scheduler
// resolves references.
package containerdtest
