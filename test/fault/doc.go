// Package fault injects faults into a machine with real processes and real containers, and checks that
// running containers keep their processes and clients their endpoints. Each test is one fault.
//
// What clients saw of a cluster of schedulers under faults is recorded, and checked by porcupine: what was acknowledged
// is never lost and takes effect once, and no read is stale.
package fault
