// Package auth finds out who calls. A caller shows a token; the store keeps the SHA-256 of each
// token's secret with a name, a role and a project.
//
// Decisions:
//   - Secrets are 256 random bits, so a plain SHA-256 of them is safe to store: there is nothing to guess,
//     and slow hashes would cost every call.
//   - Two roles. "admin" may call everything except AgentService, because an operator's token must not
//     be able to pretend to be a node; "agent" may call AgentService alone.
//   - The gRPC health service is open, so that a load balancer or a service manager needs no secret; it
//     tells nothing but whether we serve. Reflection needs an admin's token like any other call: it
//     shows the whole API.
//   - Before the bootstrap there are no tokens, and every call is answered with "unavailable", not with
//     "wrong token".
package auth
