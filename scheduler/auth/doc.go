// Package auth finds out who calls, and what that caller may call.
//
//	certificate of an agent       AgentService and the renewal of its certificate, whatever token it shows
//	certificate of a scheduler    the same renewal, and calls that it passes on for somebody (Forward)
//	token of the role admin       everything else
//	token of the role agent       AgentService, in a cluster without TLS alone
//	nobody                        health, and Join, which has a secret of its own
//
// The store keeps the SHA-256 of each token's secret with a name, a role and a project; the handshake has checked
// certificates before a call comes here.
//
// Decisions:
//   - Secrets are 256 random bits, so a plain SHA-256 of them is safe to store: there is nothing to guess,
//     and slow hashes would cost every call.
//   - An operator's token can't call AgentService: it must not be able to pretend to be a node. A connection with an
//     agent's certificate is an agent's even if it shows an operator's token: what a node has is confined to the node.
//   - A forwarded caller is believed from a scheduler's certificate alone. From anyone else it is not ignored but
//     refused, since nobody sends it by mistake.
//   - Who is refused is written to the log with audit=refused: who it was, from where, what, and why. Calls without any
//     credential are told at debug level only: they are usually mistakes, and there is no limit to their number.
//   - The gRPC health service is open, so that a load balancer or a service manager needs no secret; it
//     tells nothing but whether we serve. Reflection needs an admin's token like any other call: it
//     shows the whole API.
//   - Before the bootstrap there are no tokens, and every call is answered with "unavailable", not with
//     "wrong token".
package auth
