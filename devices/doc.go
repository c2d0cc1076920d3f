// Package devices knows the accelerators of this host: what exists, how healthy it is, and what it
// measures. A Backend speaks to one vendor's library; the Registry merges the backends' answers and is
// all that the agent sees.
//
// A device that a backend no longer reports stays listed as Lost until the agent restarts, because an
// instance may still hold it: absent and broken are different things. So are broken and silent: devices
// whose driver doesn't answer are Unresponsive, which says nothing against them. A slice is different: when
// its parent is listed without it, the parent was sliced anew, and the slice is forgotten once nobody holds it.
//
// A device whose holder is gone is free again when fresh figures show no process on it and its memory back at its
// baseline: the least that was seen while nobody held it, and some. The baseline isn't kept over a
// restart, except with a quarantine; a device that was held ever since may use a tenth of its memory. A figure that a
// vendor's driver never had can't be held against its devices: without processes the memory decides, and the other way
// round. One that it had and hasn't may hide anything: then the device isn't free.
//
// Processes that were on a device while nobody held it, a display server or a monitor, are the host's own and don't
// count for as long as they last. An agent that starts while a device is held can't know them: there they count until
// the device was free once. Any other process counts, be it a container's or the host's.
//
// What isn't free in time is put into quarantine, which shows as a device that is drained, and
// ends with the next look (every 30 s, or when a driver signals) that finds nothing left. The ledger of who holds what is the agent's.
//
// Each backend has goroutines of its own, so that a vendor's driver that hangs delays neither another
// vendor nor the agent. A signal of a driver is passed on at once, and makes the registry look at the
// vendor's devices without waiting for the next round, at most once a second.
package devices
