// Package arch holds the rules of the architecture as tests: who may import whom, where a dependency may
// be used, what the deterministic packages may call, how long a file and a function may be, what every
// package must say about itself, and what no tracked file may contain.
//
// The graph comes from `go list`; the rules are pure functions over it, so that tests feed them made-up
// graphs and show that each rule can fail. An exception is an entry with its reason in exceptions_test.go.
package arch
