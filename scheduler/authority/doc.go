// Package authority says what the state means for certificates: who is trusted, who may be given one, what is revoked.
// Its functions look at a view and answer the mutations to write; they commit nothing, so that a caller can put them
// into a Write of its own, guarded by the revisions that were seen.
//
// Decisions:
//   - Of each node and scheduler the last certificate is kept, not every one: its time of issue is what a revocation
//     must reach, and its root is what keeps a rotation of the CA from being finished.
//   - Times of issue grow for each name, also when the leader's clock has gone back: a certificate is issued after
//     the one before it and after the last revocation, and a revocation reaches the last certificate.
//   - A node's revocation is kept until every certificate that it may refuse has expired, by the longest lifetime that a
//     scheduler can be configured with; a scheduler's for ever, since schedulers believe each other's expired
//     certificates (see identity). While it is, a join token lets the name in only when it is bound to it.
package authority
