// Package grpcdirect calls the instances of a service over gRPC as package direct does over HTTP: a resolver follows the
// service's endpoints, and a load-balancing policy chooses among those that are connected by direct.Balancer.
//
//	grpcdirect.Register() // once, in main
//	conn, err := grpc.NewClient("drover:///default/iris", append(grpcdirect.Options(cfg), credentials…)...)
//
// Decisions:
//
//   - The resolver is handed to each connection, never registered. gRPC knows policies by their name in one table of the
//     whole program that is not locked: Register writes it, when the program says so.
//   - The policy builds on gRPC's base balancer, which keeps a connection to every instance and knows which are ready. An
//     instance that comes back at the address of another one is a new one, and gets a new connection.
//   - A call that was not sent is sent to another instance by gRPC itself. Repeating others is the service configuration's
//     retryPolicy: whether a method may be repeated only its author knows.
//
// Dependencies: google.golang.org/grpc, whose resolver and balancer this implements.
package grpcdirect
