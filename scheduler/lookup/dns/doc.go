// Package dns answers DNS queries for services from the table of look-ups:
//
//	SERVICE.PROJECT.drover.            A, AAAA: the addresses of its ready instances; SRV: their names, ports and weights
//	INSTANCE.SERVICE.PROJECT.drover.   A, AAAA: the address of one
//
// Decisions:
//   - DNS knows no credentials: whoever can send to the address learns where the services of every project are. That is why
//     it is off unless it is given an address, and why limits of accounts and users mean nothing here.
//   - Answers live as long as those of look-ups (max_age_seconds), also those that there is nothing.
//   - A version's weight is divided among its instances, since SRV has weights of targets alone.
//   - A service that has no endpoints, or that can't be looked up, has no records. One that isn't there, or another name
//     below the zone, doesn't exist. The zone and its projects exist always: resolvers that ask for one label after the
//     other would otherwise ask no further.
//   - Names are found as they are written, and else in lower case, which some resolvers change.
//   - Over UDP an answer has at most 1,232 bytes and is cut off beyond, so that it isn't fragmented and a forged sender
//     gains little; the rest is asked for over TCP.
//
// Dependencies: github.com/miekg/dns for the wire format and serving UDP and TCP, which are a hundred RFCs.
package dns
