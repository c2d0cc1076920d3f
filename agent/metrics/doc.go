// Package metrics serves what the agent measures, in Prometheus form: one file for each collector. Nothing
// is measured unless somebody scrapes, and then at most once a second; the agent's slow loop also samples
// once a minute, to notice lines that loggers dropped. A figure that could not be read is left out, never
// zero.
//
// Every series of a device names who holds it, so that nobody needs a join to sum devices by service. The
// price: a change of holder ends the series and begins others. Holders are read from the ledger once for a
// scrape, so that all its families agree; a device that two instances claim is told once, for the younger
// plan's. Devices are read from the registry's memory: a scrape waits for no driver.
//
// What has one state of several is a state set, a series for each with one of them at 1, so that an alert
// can name a state and a state that never occurred still has its series.
//
// Names of devices and vendors come from drivers. Bytes that Prometheus refuses are escaped, and a series
// that can't be told, a duplicate for one, is left out and logged: it never costs the rest of the scrape.
//
// Dependencies: prometheus/client_golang for the registry and the text format, gopsutil for the host's
// figures on every kernel we meet.
package metrics
