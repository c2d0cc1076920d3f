// Package client is the Go library for programs that use Drover: operators' tools call the gRPC API
// through Dial, and clients of a service find its endpoints with Lookup. Those that call a service again and
// again follow it with package direct.
//
// It imports the API's messages and signatures alone, never the scheduler or the agent, so that a program that uses it
// links none of them.
//
// Decisions:
//
//   - A token never travels in plain text: without a CA file, Dial accepts loopback addresses only.
//   - Reads (Get…, List…) are retried by gRPC itself while the scheduler is unavailable. Writes are not:
//     whether the lost one took effect is unknown, so only a caller that gave it a request ID may repeat
//     it. Track tells such a caller whether the scheduler can have seen the call at all.
package client
