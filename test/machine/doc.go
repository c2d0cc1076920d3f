// Package machine runs Drover on this machine with real processes for tests: a registry with the test
// image, a private containerd, `drover scheduler` and `drover agent`. A test may kill and restart each
// of them; when it ends, containers, name spaces, bridge, mounts and iptables rules are gone, whether
// it passed or not.
//
// Schedulers is several `drover scheduler` of one cluster, without nodes, each to be killed and restarted.
//
// Several machines may run at once: each has its own directory, ports, bridge and subnet.
package machine
