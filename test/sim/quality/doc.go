// Package quality compares the planner with first-fit, and on small cases with an exhaustive optimum: how much of
// what is free is in pieces, and how long jobs queue. It is below the loops: a Policy starts jobs on nodes of 8
// devices at once, and they end when their time is over.
//
//	Fragment   arrivals and departures at a load; the share of free devices that no instance with 8 can have
//	Queue      a trace of jobs; how long each waits
//	Optimum    few nodes and requests; what the best of all assignments would place, and leave whole
//
// Both policies are asked in the same way: whenever something has changed they see all waiting jobs in the order of
// their submission, and start those for which they find room. First-fit takes the first nodes by name that have
// enough free devices, and keeps nothing for anybody. The planner is driven as the service loop drives it: requests
// wait 30 s before it may reserve for them.
//
// Links within a node aren't asked for: first-fit knows nothing of them.
package quality
