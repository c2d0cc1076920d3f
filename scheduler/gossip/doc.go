// Package gossip is the only importer of memberlist: it is how schedulers find each other when addresses have changed,
// and hear within seconds that one is gone. It is never the truth about anything: who is a member and votes stands in
// the Raft configuration, where a member is in the store, and both are written only after that scheduler has proved
// who it is over TLS (scheduler/member).
//
// Decisions:
//   - Messages are encrypted and unencrypted ones are refused. There may be several keys: all of them open, the first
//     one seals, so that a key can be replaced without a moment in which two members don't understand each other.
//   - Packets carry the cluster's ID as their label: two clusters in one network don't mix even with the same key.
//   - A member is named by its scheduler's ID, and tells its addresses and versions as its metadata. One that comes
//     back at another address is believed one second after it was found dead.
//   - Every 15 s everyone who is known and isn't heard is asked to join again, so that two halves of a healed split
//     find each other: memberlist alone forgets the dead.
//   - What memberlist has to say goes to our log at its level, at most ten lines at once and one a second: a stranger
//     with a wrong key can send as many packets as he likes.
//
// Dependencies: hashicorp/memberlist, the SWIM protocol with encryption, proven in Consul and Nomad: failure detection
// that doesn't raise false alarms is hard to write. golang.org/x/time/rate bounds the log. google/protobuf encodes the
// metadata.
package gossip
