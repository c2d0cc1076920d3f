// Package fault injects faults into a machine with real processes and real containers, and checks that
// running containers keep their processes and clients their endpoints. Each test is one fault.
package fault
