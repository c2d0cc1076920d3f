// Package containerd runs containers with containerd (1.6, 1.7, 2.x) through its own client, CNI's bridge
// plugin and iptables.
//
// What containerd keeps (container, task, snapshot, image) is asked there. What it does not keep is in
// one directory for each container under <DataDir>/containers/<ID>: record.json (address, interface, published
// port, start time) and the files that are mounted over /etc. All names derive from the container's ID, so
// an interrupted Create is found and finished or removed by the next one.
//
// Decisions:
//   - Create runs two chains at once, the network (CNI bridge) and snapshot, container, task; they share
//     only the network namespace, which is made first. The address is written into the mounted
//     /etc/hosts when it is known.
//   - A snapshot is kept from garbage collection by a label of its own instead of a lease, which would cost
//     two more calls that reach the disk. Delete removes it by name.
//   - Port maps are our own iptables chain, not CNI's portmap plugin: the plugin takes about 100 ms a
//     container and scatters its rules; one iptables-restore transaction writes all of ours in a few
//     milliseconds, is idempotent, and RepairNetwork can compare the whole. CNI's firewall plugin is replaced in the same way.
//   - A published port is also bound, without listening: rules alone would leave it looking free, and two
//     programs of one host would map it.
//   - Isolation: traffic from the bridge to the host is refused, except answers to connections that the host
//     made; between containers too, directly and through published ports; to anywhere else it is
//     let through and masqueraded, but not to link-local addresses (cloud metadata). Ports of the bridge are
//     isolated in the kernel, and the host answers ARP for neighbours (proxy_arp_pvlan), so that connections
//     between containers reach the rules and are refused at once instead of timing out. Our jumps are put
//     first in INPUT and FORWARD when they are made; what others put before them later is their decision.
//   - Each rule carries a comment made from its text and is found again by that: iptables prints rules in other
//     words than it takes them, differently in each version.
//   - Capabilities, see capabilities(): a small list without NET_RAW, MKNOD and AUDIT_WRITE.
//   - Devices are given by whoever Config names, as the specification's last change: it needs the user, whose the nodes
//     become. The allow-list of the device cgroup denies all, then allows what was given; runc adds the harmless ones (null, zero, …).
//     Variables with which an image asks for devices are dropped; those of the request stay, for a program that wants fewer.
//   - Usage is read from the cgroup file systems instead of through a shim: cheaper for each scrape, and it
//     works while containerd is away. Absent values stay nil.
//   - Why a container ended is read from what it leaves: oom_kill in its memory group (OOMKilled), a
//     logger that ended without having signed off (LoggerKilled), a container whose task is gone (ShimKilled).
//     That works after our own restart as well; events only tell when to look.
//   - Watch proves its subscription by an event that it publishes itself and hears, then sends EventResync:
//     nothing is lost between a list and the first event.
//   - The logger puts its PID and start time into the name that a symbolic link points to and its drop counter into
//     a file written in advance: both work on a full disk. Its pidfd is waited for without a thread.
//   - Default limits on open files and locked memory are bounded by this process's own, which a host may not allow to raise.
//
// On the machines that run these tests only version 1 cgroups exist: version 2 is covered by golden
// specifications and fixture directories.
//
// Dependencies: containerd's client, api, platforms, typeurl, errdefs and log are the way to speak to containerd, its contrib/seccomp
// the profile that the ecosystem maintains; distribution/reference parses image names as it does; containernetworking/cni's libcni
// runs the bridge plugin (go-cni around it would add another configuration format); image-spec
// and runtime-spec are the formats themselves; logrus is where its client logs, silenced; uuid names exec processes; golang.org/x/sys/unix
// gives namespaces, mounts and pidfds.
package containerd
