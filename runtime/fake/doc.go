// Package fake is a runtime.Runtime whose containers exist only in memory. Tests drive the agent with
// it, and simulated nodes run on it. It passes package runtimetest's suite.
//
// A container's process is a Program, chosen by its command line; the default understands the flags of
// runtimetest's server. With Options.Listen each container gets an address of its own in 127.0.0.0/8 on
// which it really serves HTTP, and Publish really listens on the host port, so that probes, endpoints
// and "port already taken" behave as on a real node. PIDs count from 1000 and name no process. Stats are
// synthetic but grow with time. Nothing fails unless a test asks for it: SetUnavailable, FailPulls, Exit,
// KillLogger, Break, SetHealthy.
package fake
