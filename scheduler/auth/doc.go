// Package auth finds out who calls, and what that caller may call.
//
//	certificate of an agent       AgentService and the renewal of its certificate, whatever token it shows
//	certificate of a scheduler    the same renewal, and calls that it passes on for somebody (Forward)
//	token of an agent             AgentService, in a cluster without TLS alone
//	token, token of an issuer     what its role may: admin, operator, deployer, viewer, lookup
//	access key, app               look-ups over HTTP
//	nobody                        health, and Join, which has a secret of its own
//
// One table (methods.go) says of each method which role it asks for at least and where its request names the project.
// A credential has a role in its own project, and in further ones by its scopes; the roles admin and operator hold in every
// project. The handshake has checked certificates before a call comes here.
//
// Decisions:
//   - Secrets are 256 random bits, so a plain SHA-256 of them is safe to store: there is nothing to guess,
//     and slow hashes would cost every call. The secrets that sign requests have to be had again: they are encrypted
//     under the key-encryption key, and decrypted once.
//   - A project that the caller has no role in is absent: NotFound, in the words that are used of one that nobody has made.
//     A role that is too little in a project of his own is PermissionDenied, with the role that it takes.
//   - A method that is missing from the table is an admin's; a test holds that none is missing.
//   - A caller without a valid credential is refused by the headers, before his message is read; the interceptors, which
//     have the request, look again: theirs is the check that counts.
//   - A stream's first request says which project it is about: it is looked at when it comes, before a handler sees it.
//   - The caller of an open stream is looked at again every 15 s, with its first request: a shell ends with its token.
//   - Look-ups over the API, which are not counted, are a viewer's; LookupService is what the role lookup is for.
//   - What has been found out about a credential is kept by the stored object itself, which is never changed: a
//     revocation counts with the next call, and nothing has to be invalidated.
//   - Wrong signatures, unknown access keys and keys whose secret can't be decrypted are one error: the last are told to the
//     log. That a key has expired is told to who has its secret.
//   - What an external issuer's token grants is held against the projects that there are, and the accounts that they belong to,
//     with each call. The account stands in the grant: a name alone would be anybody's who takes it next.
//   - An app is bound to services by ID: a new one of the same name is another's work, maybe with other data. One that is
//     deleted is absent for the app as for everybody.
//   - The last use of a credential is kept in memory and stored when it is an hour newer than what is stored: never an
//     entry of the log for a call. Followers tell the leader, who stores it.
//   - An operator's token can't call AgentService: it must not be able to pretend to be a node. A connection with an
//     agent's certificate is an agent's even if it shows an operator's token: what a node has is confined to the node.
//   - A forwarded caller is believed from a scheduler's certificate alone. From anyone else it is not ignored but
//     refused, since nobody sends it by mistake. What he may is looked at again where he is passed on to.
//   - Who is refused is written to the log with audit=refused: who it was, from where, what, and why. Calls without any
//     credential are told at debug level only: they are usually mistakes, and there is no limit to their number.
//   - The gRPC health service is open, so that a load balancer or a service manager needs no secret; it
//     tells nothing but whether we serve. Reflection needs an admin's token like any other call: it
//     shows the whole API.
//   - Before the bootstrap there are no tokens, and every call is answered with "unavailable", not with
//     "wrong token".
package auth
