// Package session is the schedulers' end of the agents' streams: it registers nodes, hands each node its
// whole assignment set, commits what agents report, keeps leases, and pairs relays for logs and exec.
//
// A Hub leads only while its scheduler is the Raft leader; at other times sessions are refused with
// Unavailable and the leader's address in the message. Within one session three things go on, and none
// waits for another:
//
//   - reading: every message renews the node's lease; a change of facts becomes a Write. When nothing has
//     changed, neither a reconnect nor a heartbeat costs a log entry.
//   - sending: assignment sets, acknowledgements and relay orders. What is to be sent is marked and
//     collected, so that a slow agent gets the newest set rather than every one, and never holds up the
//     goroutine that follows the store.
//   - reporting: one proposal per node is in flight at a time and the next carries all that arrived
//     meanwhile. So it is with all nodes together: a report that comes alone is proposed at once, those that
//     come while entries are on their way share the next one, since an entry costs the store more than a report
//     does. A report is acknowledged when it is committed. When a proposal fails or its outcome is unknown the session ends,
//     and the agent, which keeps what was not acknowledged, sends it again after it has reconnected; the
//     sequence numbers in the reports make the second time harmless.
//
// Leases live in the leader's memory and run on the monotonic clock. All have the same length, so the
// one that expires first is the one renewed longest ago: a list in order of renewal and one timer serve
// every node. A new leader grants each node that was not Unreachable a full lease from when it can have greeted all agents,
// 2 ms for each after its election: with 10,000 at once on few cores the last would else be lost for the leader's death. On a
// scheduler that does not lead, LeaseValid answers from the node's replicated status.
//
// How often agents send, and how long leases are, follows the number of nodes with a lease, so that heartbeats cost
// the leader no more with 50,000 nodes than with 2,500. Agents are told in the Welcome and, when it changes, in a
// Pace. The one length of all leases is the longest that any agent with a lease may go by: of each node the longest
// lease is known that its agent was told since the pace that its heartbeats confirm. So a longer one holds from
// before the first agent hears of it, a shorter one after the last has said that it knows. Agents of before there was
// a Pace confirm nothing and keep what their Welcome told them.
//
// A node that loses its lease loses its session with it, so that its agent knows. When it is back, or says that its host was
// rebooted, the write that says so takes the readiness from its instances until they are reported anew: a report
// from before, which may be in the log only now, brings no endpoint back. For that, reports of sessions that have
// ended are not proposed any more. An instance that was asked to stop meanwhile stays so.
//
// A session says for which node it speaks once, in its Hello, and with TLS its certificate must be that node's; so it is
// with a relay. Whatever its later messages claim is applied
// to that node alone: reports of other nodes' instances are dropped. A second session of a node ends the
// first, because after a host's crash the old connection can look alive for minutes.
//
// A relay is ordered down the session and answered by a stream that the agent opens; the unguessable
// relay ID pairs the two. Either end's cancellation ends the other. Their number is bounded.
//
// Dependencies: google/uuid makes node and relay IDs; grpc is the agents' protocol.
package session
