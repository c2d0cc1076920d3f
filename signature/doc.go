// Package signature signs HTTP requests by SDK-HMAC-SHA256 and verifies such signatures: how a program shows that it has
// a secret key without sending it. The client library signs, schedulers verify, and neither imports the other.
//
// What is signed is the request in a canonical form, each part on its own line:
//
//	method
//	path, each segment percent-encoded (all but A-Z a-z 0-9 - _ . ~), with a "/" at the end
//	query, sorted by key and then by value, encoded likewise
//	name:value of each signed header, in lower case, trimmed, sorted, and an empty line
//	names of the signed headers, joined by ";"
//	SHA-256 of the body in hexadecimal, or the value of X-Sdk-Content-Sha256
//
// and the signature is HMAC-SHA256, under the secret, of "SDK-HMAC-SHA256", X-Sdk-Date and the SHA-256 of that form.
// The reference client, with which the tests sign, is core/auth/signer of
// github.com/huaweicloud/huaweicloud-sdk-go-v3.
//
// Decisions:
//
//   - host and x-sdk-date have to be signed: without the first a request could be sent to another server, without the
//     second at any time.
//   - A signed header that comes twice is refused, and so are two of Authorization, X-Sdk-Date or X-Sdk-Content-Sha256:
//     which of them was meant is a matter of opinion, and opinions differ between proxies.
//   - Segments of the path are decoded and encoded again, so that clients that encode differently sign the same. A
//     segment that is "." or ".." or has an encoded slash is refused: others might take the path for another one.
//   - The digest of a body that X-Sdk-Content-Sha256 states is computed again. UNSIGNED-PAYLOAD is believed only where
//     the caller of Verify says so.
//   - A wrong signature and an unknown access key must look the same. Verify takes an unknown one as "", computes
//     as much, and answers the same error.
package signature
