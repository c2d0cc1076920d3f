// Package cluster runs a scheduler and agents within a test: the real servers on loopback ports that the
// kernel chose, with fake runtimes and fake devices. A test deploys through the client as an operator
// would, and may stop and start the scheduler and each agent; data directories outlive both.
//
// Everything is stopped when the test ends. Waiting for a service follows its watch.
//
// go-containerregistry makes the one image and serves it on loopback, so that references are resolved as
// in production.
package cluster
