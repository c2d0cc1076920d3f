// Package metrics serves what the agent measures, in Prometheus form: one file for each collector. Nothing
// is measured unless somebody scrapes, and then at most once a second; the agent's slow loop also samples
// once a minute, to notice lines that loggers dropped. A figure that could not be read is left out, never
// zero.
//
// Dependencies: prometheus/client_golang for the registry and the text format, gopsutil for the host's
// figures on every kernel we meet.
package metrics
