// Package identity is how the members of a cluster know each other: certificates, who signs them, how a host
// gets its first one, and the TLS configurations that check them. Agents and schedulers share it.
//
//	join file ─► Join ─► Keeper ◄─ Run: renews           Authority ◄─ state: root, sealed key ◄─ key file
//	                       └─► ServerTLS, PeerTLS, ClientTLS, credentials for gRPC
//
// Decisions:
//   - Who somebody is stands in the certificate: the URI drover://CLUSTER/ROLE/NAME, with the roles scheduler and
//     agent. Among members the role is checked and host names are not: a scheduler may move. Operators and look-up
//     clients do check them, so a scheduler's certificate also has its host names and addresses.
//   - The CA belongs to the cluster: its key stands in the replicated state, encrypted with AES-256-GCM under a key
//     that each scheduler reads from a file. So whoever leads can sign, and a copy of the state alone can't.
//   - A serial number begins with the time of issue. One time per name, in the replicated state, revokes all that
//     was issued up to it, however often the name renewed; there are no lists of serial numbers. Schedulers
//     compare with their own state at each handshake and end the connections that a change forbids.
//   - A new root is also signed by the one before, and members send that certificate along: who hasn't heard of the
//     new root yet is led to it by the old one. So the new root issues from its first moment.
//   - A Keeper's generation (certificate, key, trust) is one file, replaced at once: after a crash there is the old
//     or the new one, never a mixture. ca.pem beside it is a copy for operators.
//   - Between schedulers, where Raft runs, an expired certificate is still believed: a cluster that was off for longer
//     than a lifetime could otherwise never elect the leader who renews. It is not where others are let in, and
//     revocations of schedulers are kept for ever.
//   - TLS 1.3 alone, without session tickets: each connection is checked in full.
//   - A gRPC server computes few handshakes at once, whoever waits: when a leader dies, all agents call the next one,
//     which must have the processor for its own heartbeats meanwhile.
//   - A join token carries the digest of the root's certificate. Schedulers send their roots along in the handshake,
//     so that a host which knows nothing but the digest can check the scheduler before it sends the secret.
//   - The name in a certificate signing request is checked by who signs; the key is made where it stays.
//
// Dependencies: grpc carries Join and Renew and tells who called; go.yaml.in/yaml/v3 reads join files, which people
// look at. Signing and TLS are the standard library's.
package identity
