// Package fleetv1 is Drover's protocol, version 1: the operators' API (a gRPC service per noun), the
// stream between agents and schedulers, and the commands and snapshot records of the Raft log.
//
// Everything but values.go and this page is generated from the .proto files, and committed: building
// Drover needs no protoc. `make generate` renews it; `make lint` fails when it's out of date, or when a
// message has become incompatible with proto/baseline.binpb, in binary form or as JSON.
//
// Enumerations are strings, because the JSON and YAML forms of the messages are read by people and the
// words are what the specification uses; values.go lists them.
//
// gRPC and protobuf carry all of it: one definition gives the API, the durable forms and their
// compatibility check, where JSON over HTTP would leave all three to be written by hand.
package fleetv1
