// Package devices knows the accelerators of this host: what exists, how healthy it is, and what it
// measures. A Backend speaks to one vendor's library; the Registry merges the backends' answers and is
// all that the agent sees.
//
// A device that a backend no longer reports stays listed as Lost until the agent restarts, because an
// instance may still hold it: absent and broken are different things. So are broken and silent: devices
// whose driver doesn't answer are Unresponsive, which says nothing against them.
//
// Each backend has goroutines of its own, so that a vendor's driver that hangs delays neither another
// vendor nor the agent. A signal of a driver is passed on at once, and makes the registry look at the
// vendor's devices without waiting for the next round, at most once a second.
package devices
