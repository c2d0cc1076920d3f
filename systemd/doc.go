// Package systemd connects a daemon with the service manager, and its folder holds what the service
// manager reads: the units, sysusers.d and tmpfiles.d fragments, and the default configuration files.
//
// Notify is all of the Go part. A watchdog that a timer feeds proves only that a timer runs; here each
// beat asks the daemon's own health first, so that a daemon that is stuck gets restarted.
//
// Decisions of the units:
//
//   - The agent's unit has KillMode=process: shims and loggers that were started under it are not its
//     own to end. KillMode=mixed would kill every container with a restart of the agent.
//   - The agent runs as root (namespaces, cgroups, mounts, iptables); hardening that takes any of these
//     away is left out of its unit. The scheduler needs none of them: it runs as the user drover,
//     with a read-only system and no capabilities.
//   - Neither unit requires the other or containerd: an agent waits for both by itself, and a
//     Requires= would stop it, and its endpoints' upkeep, together with containerd.
//   - StartLimitIntervalSec=0: the service manager never gives up; a daemon that refuses to start (say,
//     for a corrupt journal) says so in its log each time, RestartSec apart.
//
// go-systemd's daemon package speaks the protocol of sd_notify(3); it replaces the socket code, its
// abstract names and the parsing of WATCHDOG_USEC.
package systemd
