// Package skew proves that this version of the program reads what an earlier one left: its Raft data directory, its
// snapshots, its agents' journal, and the messages that its agents and its command line send and expect.
//
// testdata/VERSION was recorded by that version itself:
//
//	go test ./test/skew -run TestRecord -record testdata/VERSION
//
// and is never recorded again: a fixture that is made by the code which it tests proves nothing. Before a version
// is released its fixtures are recorded beside the older ones; those of versions more than one minor version back
// may go.
//
//	scheduler/  the data directory: a snapshot, and entries of the log after it
//	agent/      an agent's journal, with an instance
//	state.json  the objects that both must hold
//	messages/   NAME.binpb as sent, and NAME.json of what it said
//
// v0 is from before the first release: its log is the bbolt file raft.db.
package skew
