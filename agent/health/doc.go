// Package health finds out whether an instance works: Probe asks once, Watch keeps asking and tells each
// change.
//
// While an instance starts, Watch asks often (every 2 ms at first, ever less often up to the period), because readiness
// should be known the moment it is there; these extra probes count as one failure per period, so that the
// threshold means what SPEC §2 says. After the first success it asks once a period. A certificate is not
// checked by HTTPS probes: the prober connects to the address of a container that it started itself, for
// which no certificate can be valid. Connections are never kept alive and bodies are not read.
//
// Dependency: google.golang.org/grpc, for the standard health protocol of GRPC probes.
package health
