// Package oidc finds the caller of a token (JWT) that an external issuer has signed, and what he may do by the grants of
// the scheduler's configuration.
//
//	issuer, audience   whose tokens count, and whom they must be meant for
//	keys               file or https URL of the issuer's key set (JWK set)
//	grants             "CLAIM=VALUE ACCOUNT/PROJECT=ROLE": who has the claim has the role
//
// Decisions:
//   - A caller is called "external/" and his user claim: no user of the cluster has a name with a slash.
//   - A grant names the account of its project, and is for auth to hold against what there is: a project of that name which
//     another account makes later isn't meant.
//   - The key set is loaded again when a signature matches none of its keys, but not before reloadAfter has passed, and by
//     one call at a time: strangers can't make the scheduler ask the issuer for each of their tokens. Who waits for an issuer
//     that doesn't answer is whose token matches no key that is known, and nobody else. A file is treated alike. When it can't
//     be loaded the keys of before count on.
//   - Who shows a token that isn't verified is told that, and nothing of the issuer or of the way to it. The log says what
//     is wrong: with the key set as a warning, with a token at debug level, for strangers can send any number of them.
//   - What was verified is remembered for a minute at most, by the token's digest: a program that calls often pays for the
//     signature once. A key that the issuer withdraws counts that much longer.
//   - Only signatures with public keys are taken, whatever a token says of itself.
//   - The key set is named, not discovered at the issuer: a scheduler needs no network to start, and a file works as well.
//
// Dependencies: coreos/go-oidc checks issuer, audience, times, algorithm and signature of a token; golang-jwt would leave
// the key set to us. go-jose, on which it stands, reads that set.
package oidc
