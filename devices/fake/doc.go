// Package fake has devices that exist only by name, for tests, demonstrations and simulated nodes.
//
// A backend is described in a word, "8xH100-80GB,2xAscend910B-64GB": how many, and the model, whose last
// part is the memory. IDs derive from a name given by the caller, the model and the index, so that they
// are stable across restarts and differ between nodes. Links are those of the servers such models are
// sold in. Samples are a pure function of device, time and who holds it: a device that is held varies like a
// busy one's and has a process, one that isn't idles. They repeat exactly under an injected clock. As long as
// nobody says who holds what, all look busy.
//
// What should fail is said behind the models, or by Inject: "8xH100-80GB;30s:3:lost;1m:2:xid 79" loses
// device 3 half a minute after the backend's first use, and raises XID 79 on device 2 after a minute.
package fake
