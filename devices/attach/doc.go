// Package attach gives containers their devices, and no others, by the Container Device Interface: files
// that say per device which nodes, mounts, hooks and environment a container needs.
//
// An Attacher is asked once for each container, as the last change of its OCI specification, with the IDs
// of its devices. It knows two places. The host's directories hold what an operator or the vendor's packages
// wrote, and come first. Its own directory holds what is made here when the host's say nothing about a
// device:
//
//   - NVIDIA: what nvidia-ctk generates, with devices named by UUID. Where it isn't installed the error says what to install.
//   - Ascend: a file of ours, with the device's node, the three that all programs need, and those of the
//     driver's files that exist.
//   - fake: nodes of ours, with a number that no driver has. Opening one that was given fails with ENXIO, and one that
//     was not with EPERM, so isolation shows without hardware and without doing anything.
//
// Decisions:
//   - A device is found by its stable ID, or by the node that the driver gives it now. Index names are never
//     trusted: the file may be older than the last boot, and so may be its numbers.
//   - What a file says is compared with the host before it is used: nodes exist and have the number that the file gives
//     them, mounts and hooks exist, no other device's node is among them. A stale file is an error that names it,
//     instead of a neighbour's device. Slices of a GPU share its node; what tells them apart are the nodes of
//     their MIG instances below /dev/nvidia-caps, so a slice gets those that the driver names for it, and a
//     whole GPU none: neither a neighbour's nor those that configure MIG.
//   - Files are read with the ecosystem's parser but without its cache: that one watches directories from a
//     goroutine that nobody can stop, sees a change some time later, has one process-wide instance, and a file
//     with a null in a list makes it panic. Here directories are listed on each request, and a file is parsed anew when it has changed.
//     One bad file spoils only its own devices.
//   - nvidia-ctk loads the driver's library, which can hang for ever: it is killed after a while, not waited
//     for, and not started again while one hangs.
//   - LD_LIBRARY_PATH is merged, the driver's directories first: an image's stub of a driver library must not win.
//   - RDMA: verbs and connection manager, which check their users themselves; never umad and issm, with which
//     a container could manage the fabric.
//
// Dependencies: tags.cncf.io/container-device-interface v1.1.1 is the format's own parser, validation and
// way to change an OCI specification, with the versions and corner cases of years; runtime-spec is that specification;
// golang.org/x/sys/unix makes and reads device nodes.
package attach
