// Package devices knows the accelerators of this host: what exists, how healthy it is, and what it
// measures. A Backend speaks to one vendor's library; the Registry merges the backends' answers and is
// all that the agent sees.
//
// A device that a backend no longer reports stays listed as Lost until the agent restarts, because an
// instance may still hold it: absent and broken are different things.
package devices
