// Package lookup answers which endpoints a service has, over HTTP as SPEC §4 says, over gRPC, and for the API's
// ListEndpoints: once, for whoever waits for a newer answer, and for watches.
//
// The answer of a service is rendered when something changes (a service, an instance, a pool, a node's
// lease or devices) and served from memory: a request hashes its token, finds the service in a map and writes bytes
// that exist already. It takes no lock and reads no store. One goroutine (Run) does all the rendering; when
// services come or go it copies the small part of the map that has them, and it swaps one pointer when an answer changes.
//
// Decisions:
//   - An instance is in the answer when it is meant to run, is ready, has an address, and its node's lease
//     is valid. A service that isn't meant to run has no endpoints, whatever its instances still do.
//   - An instance that holds a device which its node reports as failed is not in the answer, ready or not: an
//     agent that can't write its journal can't report the instance as not ready, but still tells of its devices.
//   - A gang's endpoint is that of rank 0, and only while every member serves.
//   - What comes to a service of more than 500 instances is rendered only when 40 µs for each have passed since it
//     was last, 2 s for 50,000. What goes is rendered at once: an instance that is withdrawn serves on for no longer
//     than clients may use the last answer that has it.
//   - The index is that of the store when the answer last changed, and more than that of the answer before: a lease that
//     is lost changes the answer and not the store. The ETag covers the bytes, too.
//   - An answer is rendered with all that is sent of it: a page, an event of a watch, and a message, encoded when the first
//     watch needs it. It has a channel that is closed when the next one stands, which wakes all who wait; each then takes the
//     newest there is, so whoever is slow skips what lies between and nothing is queued for anybody.
//   - A watch has one goroutine and a timer, nothing else. Over HTTP/1 its connection is taken from the server, which would
//     keep another goroutine and three buffers for it; nobody reads from it any more, so a client that is gone is noticed when
//     the next thing is sent, each 15 s at the latest. Over HTTP/2 and gRPC the goroutine is the stream's. Each write has a
//     deadline in place of the server's for whole requests; whoever doesn't read is cut off.
//   - A watch's caller is authenticated again before each thing that is sent and each 15 s, which ends the watch with its
//     credential and needs no news about credentials.
//   - Each answer is also rendered for every network that nodes name, when it changes and not when it is asked for, because
//     networks are few. Their names and prefixes are counted over all nodes; a new name renders everything anew, which
//     happens as rarely as somebody builds a network.
//   - What can't be looked up (pool not dedicated, stopped, no image, batch) is refused with 409, a code of its own and
//     the condition that fails; another project's service answers 404 like one that does not exist. Whoever can't know
//     of a service learns nothing. ListEndpoints, which is for operators, shows a stopped service as one without endpoints.
//   - A look-up of a known caller counts against the limits (package rate) whatever comes of it, so that names can't be
//     tried out; a watch counts once.
//   - A path with encoded characters is refused: no name needs them, and others might take it for another path.
//   - Who may look services up in which project is auth.Authenticator.Request's to say.
//   - Every scheduler answers, from its own memory: a client needs no leader. Headers say how old the answer may be, and
//     mark it from 2 s on; whoever would rather have none than an old one says so in the query.
//
// Dependencies: grpc, whose prepared messages are encoded once for many streams.
package lookup
