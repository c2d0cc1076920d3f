// Package place decides which node and which devices an instance gets. It is pure: it reads one view of
// the store and nothing else, so the same view and the same requests always give the same plan.
//
// An Index is what a planning pass knows: per node what is free, which devices can be given out, which
// fixed host ports are taken and how many instances of each service run there. A device can be given out when
// nobody holds it and state.Barred has nothing against it: it is healthy, with no action but "observe", not
// quarantined, and neither it nor the device that it is cut from is cordoned. Plan places requests one
// after the other and consumes what it gives away, so that no device and no byte is given twice within a
// pass; the store checks every part again when the plan is applied.
//
// Placing is filter, then rank. A filter has a name, removes nodes and can say in a phrase what it
// removed and how far the best node was from fitting. The explanation of a request that fits nowhere
// joins these phrases, and counts the devices that are there but barred by why; it is computed only then.
// The order of preference among nodes that fit:
//
//  1. a node where the service has not failed lately;
//  2. the smallest hole: the fewest free devices left over, so that whole nodes stay free for big
//     requests (a request without devices prefers nodes without free devices);
//  3. the fewest instances of the same service, to spread it;
//  4. the least free CPU, then the name, so that a plan can be repeated.
//
// Inside a node the devices with the least sufficient memory go first.
//
// A pool without any node is not a reason to refuse a deployment: nodes join pools by their labels when
// their agents start, often after the services were declared. NeverFits therefore answers "never" only
// when the pool has nodes and each of them would be too small, or of the wrong kind, even when empty.
//
// The index is built per pass and loads a pool's nodes when a request first names the pool. Callers only
// see NewIndex and Plan: buckets by device class, kept up to date from the store's changes, fit behind
// them.
package place
