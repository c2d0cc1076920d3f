// Package place decides which nodes and which devices an instance gets. It is pure: it reads views of the
// store and nothing else, so the same view and the same requests always give the same plan.
//
// # The index
//
// An Index is kept beside the store: Refresh reads again the nodes that changed, so that the index is at any
// time what one made anew from the view would be. Plan takes what it gives away from the index; what of it
// was not committed comes back with the next Refresh, or with Undo.
//
// Placing looks up, it does not scan. What a request asks of nodes is its shape; requests of one shape share
// a list of the nodes that could hold them, sorted into buckets by the hole that the request would leave:
// devices left free on the node, then in the link domain that it would take them from. A bucket is a set of
// bits, so the smallest hole that fits is found in a few instructions. A shape is made when it is first asked
// for, reads the index's journal of changed nodes when it is used, and the least recently used is dropped.
//
// Preferred labels and labels to spread over divide a shape's nodes into cells, those that are alike in all
// of these labels. A tally of the service version keeps the cells in the order in which the next instance
// should try them, so that spreading costs no scan either.
//
// # The order of preference
//
// Among the nodes that fit, and that no reservation keeps from the request:
//
//  1. the node that the request names;
//  2. a node where the service has not failed lately;
//  3. the heaviest preferred label, then the next;
//  4. the value of the spread label with the fewest instances of the version. Required rules count only
//     values that have an open node on which the request would fit if nothing ran there: a rack that is
//     lost does not hold up the others;
//  5. the smallest hole, so that whole nodes and whole domains stay free for big requests;
//  6. of a few nodes with that hole, from a place that depends on the version and its number of instances:
//     the fewest instances of the version; then the image; then no device that had trouble lately; then the
//     least free CPU; then the name.
//
// Instances come before the image because each start leaves the image behind: the other way round all
// instances of a service would gather on the node of the first. Only these last choices are made among a
// few; whether a request fits is always decided among all nodes.
//
// Inside a node devices come from the smallest link domain that holds them. Domains are made of NUMA nodes,
// PCIe switches, NVLink, HCCS, and the slices of one device; a slice is where its device is. Devices that
// are not healthy, quarantined, to be left or cordoned (or cut from one that is) are not given out.
//
// # What it costs
//
// A placement does much the same work however many nodes there are; what grows with them is how long the
// processor waits for memory. Where an instance ends or goes is anywhere in the fleet, so each placement and
// each end reads a few lines of memory that are in no near cache. On the machine of the figures below such a line
// took 1 to 6 ns when 1 MiB was read, 13 ns at 8 MiB, 130 ns at 32 MiB, with pages of 4 KiB as with those of 2 MiB:
// what counts is how much is read, and how often the next step has to wait for it. Therefore
//
//   - what plans read of a node is one line in one array: what is free, and the groups of up to 8 instances. The
//     node itself is read only when more run there, when its devices had trouble lately, or for a host port;
//   - counts take a byte where that does, and shapes with the same places and rules share these;
//   - journals are read, takings given back and placements named step by step for many nodes at once, so that
//     the processor waits for them together. That helps only batches of them;
//   - a bucket remembers where in it an image can be, because those that are asked for are soon used up there.
//
// At 50,000 nodes of which 90 % is taken, a placement and an end take 1.3 to 1.4 times the processor time that
// they take at 1,000, at 10,000 nodes 1.1; with spreading over racks, an image and domains 1.3 to 1.5, and 1.2.
// In fleets that are mostly empty it is within a tenth. That was on two cores at load averages of 4 to 9; at higher
// ones, where more work uses the same caches, 2.0 was seen; on a quiet machine it was 1.28 without and 1.29 with
// spreading. So the limit is the latency of memory: the counts of each version in each rack, and the one line of a node.
//
// # Gangs
//
// A gang's members get different nodes, all or none: in the rack with the fewest nodes to spare, else in as
// few racks as possible. Rules that spread the version rank the nodes of members one by one instead. Two
// required rules at once are tried only that way, which may miss a combination that exists; every other
// request that fits is placed.
//
// # Reservations
//
// Requests come in order, who waits belongs in every plan. One that fits nowhere and has waited keeps the
// nodes that lack the fewest devices from all that follow without more priority, so what becomes free there
// adds up until it fits. It changes nodes only for one that lacks fewer devices, so the wait gets no
// longer by it. Reservations last until the next Refresh and are computed again then, so they need no storage
// and no clean-up.
//
// What is kept stands idle behind instances of which nobody knows how long they run: a few big gangs in line
// could keep a large part of a pool from everyone for hours. So only the first in line of a pool has a
// reservation, and its Turn ends when others are kept out and nothing has become free for a minute. Then it
// yields to others for 10 times as long as that took, and its next turn may last twice as long. So what is
// kept in vain stays a small part of the time, and a turn is at last as long as the longest run: nobody
// starves. Nodes that are cleared for a request by preemption are kept beside that: they become free soon.
//
// # Explanations
//
// Explain passes every node of the pool through all filters: a node is counted by the first that it does not
// pass, and who passes all but one says what would help. Remedies are not guessed. A supposition changes the
// index as if an instance had ended, a node were open or less were asked for, the planner places the request
// on it, and the index is made again what it was; only what then fits is printed. The cost grows with the
// nodes (some milliseconds for 10,000), so the answer is kept per class of request until the index changes.
//
// # Preemption
//
// On one node the victims are found by trying sets of instances, small ones first: exactly, but for nodes with
// so many small instances that the tries run out, where no victim is superfluous though there might be
// fewer. A node that could not make room even without all its preemptible instances is not looked at, and of
// those that could the 256 that lack the least are compared. A gang takes the nodes with the least tolls;
// where gangs are victims, or spreading ties the nodes together, sets are tried only when they are few. What
// is stopping already counts as gone: when that is enough there are no victims and the request waits. Another
// instance of the version that asks is never a victim.
//
// # Defragmentation
//
// Defrag opens the node that gains the most for what its moves cost, then the next. Replacements are planned
// beside what they replace, as they will be started, and never onto a node that is being opened; moves that
// lose as much room elsewhere as they make are not made. It is greedy: it may miss openings that only a
// rearrangement of several nodes at once would give, which is not worth the interruptions. Gangs stay where
// they are: moving one needs a second set of nodes for as long as it takes to start.
//
// # Never
//
// NeverFits answers "never" only when the pool has nodes and they would not do even when empty. A pool
// without any node is not a reason to refuse a deployment: nodes join pools by their labels when their agents
// start, often after the services were declared. Every deployment asks, so Possible remembers nodes that would do,
// for as long as neither their facts nor the pool change.
package place
