// Package runtimetest is the conformance suite of runtime.Runtime: what the agent relies on, as tests
// that every implementation passes. Run is called from the implementation's own test with a Harness.
//
// The suite drives one program, the test server (package server beside this one): an image that holds
// nothing but that static binary is enough. Its flags say how it behaves, so that a runtime which only
// pretends to run containers can interpret them as well.
//
// What an implementation cannot really do it says in Harness.Lacks, with the reason: the case is then
// reported as skipped with that reason, never left out in silence.
package runtimetest
