// Package agent is the daemon of one node: it wires journal, instances, session, metrics and the local
// socket, and runs the small loops that belong to the node as a whole (network repair, image collection,
// old logs).
//
// An agent that ends leaves every container alone; the next one adopts them. What is kept for the system
// by default: 5 % of the memory but at least 256 MiB, 5 % of the CPU but at least 100 millicores, and 5 %
// of the file system that holds the data directory. Logs of an instance that is forgotten are kept for a
// day, and of a living one those of the last five attempts.
//
// Above 95 % use of a disk that images fill, nothing is fetched any more; what is present still starts.
//
// Each change of a device's health, or of what that asks for, is an event: of the instance that works on it, thereby of
// its service and of the node, else of the node alone. Fewer devices than the configuration declares are told
// too. Facts about devices go before the events and reports that rest on them.
//
// The scheduler is told which 64 images were used last, at the start and then at most once a minute: it prefers nodes
// that have an instance's image.
//
// The agent's HTTP answers GET /metrics and GET /healthz. The local socket (mode 0600: root, or whoever
// runs the agent) serves fleetv1.LocalService, with or without a scheduler.
//
// Dependencies: gopsutil reads what the host has, prometheus/client_golang serves metrics, grpc the local
// socket, x/sys reads the clock that goes on while the host is suspended, x/time/rate holds back a storm of device events; each replaces a protocol, parser or counter that
// would have to be kept up with the kernel or the format.
package agent
