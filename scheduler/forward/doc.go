// Package forward decides which scheduler answers a call of the operators' API: the leader, to whom a follower passes
// it on as it is, or, when the caller takes a stale answer, whoever was asked.
//
//	write, linearizable read   leader: read index, then the handler; follower: passed on to the leader
//	stale read                 answered here, with how old the answer may be in the response's headers
//
// Decisions:
//   - Reads are linearizable unless the caller says otherwise: an operator's script sees what it has written, on any
//     scheduler. A stale read is for when there is no leader, or to spare it.
//   - A call is passed on with its own messages, so that no method needs code here. A method added later is passed on
//     like any other, and only those named Get…, List… and Watch… can be answered stale. Logs and shells need the
//     agents' sessions, which the leader has.
//   - The original caller travels with the call (auth.Forward) and is believed because a scheduler's certificate is
//     shown. His token doesn't travel.
//   - A call is passed on once: a scheduler that doesn't lead any more says that nothing was done, and whoever passed it
//     on looks for the leader again. For a second a call waits for one, so that a leader which hands over is not noticed;
//     then it is Unavailable.
//   - A write that was sent and not answered has an unknown outcome, which is codes.Unknown here as everywhere. One
//     that never left is Unavailable.
//
// Dependencies: grpc, whose streams are copied; protobuf's registry gives the messages of each method.
package forward
