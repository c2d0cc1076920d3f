// Package member keeps the schedulers together: who is one, how each is, whose clock is right, and which commands
// all of them know.
//
//	every scheduler   probes the others each ProbeInterval (PeerService.Probe), and tells the leader of itself
//	                  (PeerService.AddMember) while the store says otherwise
//	the leader        adds, promotes and removes members, writes down where they are and what they can do,
//	                  moves a new gossip key on
//
// Raft's configuration says who votes; the store's Scheduler objects say the rest. What is seen by probes lives in
// memory: a new leader starts from nothing, and grants everyone a full DeadAfter.
//
// Decisions:
//   - Voters come in odd numbers: 1, 3, 5. A second scheduler stays without a vote, since two voters fail more often
//     than one; with a third both are promoted. More than five are spares.
//   - A scheduler is promoted when it has answered, been caught up, kept time and known the commands in use for
//     StableFor without a break.
//   - A dead voter is replaced by a spare, and is removed by itself only while MinVoters others are alive: losing one
//     of three takes nobody's vote, for two voters that lose another are no majority either, and the lost one may come
//     back. Who was removed in this way and returns is added again as a spare. Who was removed by an operator isn't:
//     its certificate is revoked.
//   - One change of the configuration at a time, each worked out anew from what is seen.
//   - How old a scheduler's picture is, is measured and not guessed from heartbeats: the leader's probes tell the index
//     up to which it has acknowledged writes, and once that is in the store the picture is as new as that probe was. A
//     follower that gets heartbeats and no entries so doesn't pass for fresh.
//   - What acts on time reads Clock, which doesn't follow a jump of the wall clock until a majority of the voters
//     keeps the same time; alone, a scheduler has nobody to ask and follows it. A leader whose wall clock a majority
//     contradicts hands over and says so in its log and in an event; until it is back in line it doesn't stand for
//     election.
//   - A command is proposed only when every voter has said that it knows its version (Gate). Otherwise the same log
//     would make different stores.
//   - Addresses are believed from who proves to be that scheduler: AddMember by its caller's certificate, Probe by the
//     server's. Gossip only hints where to probe.
//   - hashicorp/raft-autopilot does some of this. It knows neither odd numbers nor clocks, and shrinks a cluster of
//     three to two; our rules are one pure function (next) that a table of tests covers.
//
// Dependencies: grpc carries the probes.
package member
