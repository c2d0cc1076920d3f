// Package session keeps the agent connected to the scheduler that leads: it dials one of the configured
// addresses after the other (first, and soon, the one that a refusal named as leader) with growing, jittered
// pauses, says Hello, and then heartbeats, takes assignment sets and sends reports until the stream ends. How often it
// heartbeats the scheduler says, in its Welcome and whenever that changes; the first one at a new pace comes at a random
// time within the interval, because all agents are told at once.
//
// Facts that changed before an instance did are sent before the report that tells of it: a device that is left
// in quarantine must be known to be when its holder is reported gone.
//
// Instances are told when a session begins and ends: some must not outlive the contact for long. A session that is
// dead ends within 15 s, by the connection's own pings.
//
// One report is un-acknowledged at a time; what changes meanwhile is coalesced into the next. After a
// reconnect every instance is reported again, and the sequence numbers make that harmless. A session that
// hears nothing for a lease is given up: HTTP/2 keepalive finds dead connections, deadlines the rest.
//
// Dependency: google.golang.org/grpc, the protocol between agent and scheduler.
package session
