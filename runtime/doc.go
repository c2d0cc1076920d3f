// Package runtime says what Drover asks of a container runtime; runtime/containerd and runtime/fake
// do it, and runtime/runtimetest is the suite that both pass.
//
// The interface is the agent's whole view of containers. It follows three rules. Every method is
// idempotent, because an agent that died between an operation and its journal entry repeats the
// operation. Names are derived by the caller from instance and attempt, so that "exists already" always
// means "adopt". And unknown is never absent: a runtime that can't tell answers ErrUnavailable, and
// only ErrNotFound lets the caller conclude that something is gone.
package runtime
