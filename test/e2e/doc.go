// Package e2e operates a real scheduler, agent and containerd by the command line and HTTP alone, as a person
// or a script would: the life of a service, every kind of bad input, a gang with a simulated member, and the demo. test/fault holds what
// happens when processes die.
package e2e
