// Package registry answers what an image reference points to, and with which credentials and over
// which scheme a registry is spoken to. The scheduler resolves references to digests with it when a
// model version is made; an agent's runtime asks it for credentials and schemes when it pulls.
//
// Decisions:
//   - The Docker config file is named in the configuration and read at every use, so a `docker login`
//     needs no restart. No other place is searched: what a daemon may read should not depend on the
//     home directory that it happened to be started with.
//   - A host is spoken to either over TLS or in plain HTTP, never over the one with a fallback to the
//     other: an attacker who blocks port 443 must not get the credentials in the clear. Loopback hosts
//     are plain by default, every other plain host is listed.
//   - Credential helpers are run with a deadline, because one that asks a human would wait for ever.
//   - Every error is one line that names the image and says what to do, and wraps one of the Err…
//     values, by which callers choose a code.
//
// Dependencies: go-containerregistry speaks the distribution protocol (ping, token exchange, index and
// manifest types), which is too much to own; docker/cli's config package and docker-credential-helpers
// read the file that every operator has already, in all its historical forms.
package registry
