// Package direct calls the instances of one service from the same network, without anything of Drover on the way: it
// follows the service's endpoints, and gives back what direct access loses: the split of the traffic over the
// versions, balancing, retries, and, where wanted, figures of the calls.
//
//	service, err := direct.Follow(direct.Config{Schedulers: …, Service: "iris", Credentials: …, CAFile: …})
//	client := &http.Client{Transport: direct.NewTransport(service, direct.TransportConfig{})}
//	resp, err := client.Post("http://iris/predict", …)
//
// Service asks the schedulers, Balancer chooses, Transport calls over HTTP; grpcdirect does the same for gRPC. It imports
// package signature and the standard library alone, so that a program which calls over HTTP links no gRPC.
//
// Decisions:
//
//   - A list is used for as long as no scheduler gives another: the instances are there whether a scheduler is or not. Its age
//     is told.
//   - A scheduler that hears no leader is believed for want of a better one, and another one is asked meanwhile.
//   - An answer with a smaller index than the list's would bring endpoints back that have left. It is taken only when
//     schedulers that hear a leader have given none but such ones for 3 s, as after a restore from a backup. In the same
//     way a service is gone only when they have said nothing else for as long.
//   - Watches are tried first with each scheduler, then blocking queries, then asking each max_age: so the library works with
//     schedulers of any version, and uses a better way as soon as a newer one answers.
//   - A watch that ends because its signature is too old is opened again at once, without a word to anybody. That the
//     credential is refused for another reason shows when the new signature is refused, too.
//   - A rate limit is an account's, at all schedulers together: after a 429 none is asked before Retry-After has passed.
//   - An endpoint that fails is ejected by each program for itself, from calls that it makes anyway, and comes back by time:
//     there is no probing. When all would be ejected none is: the failure is then more likely on this side.
//   - A version whose endpoints are all ejected or gone leaves its share to the others: a call that is answered by another version
//     is better than one that fails. A version with weight 0 gets none, whatever happens.
//   - Credentials and answers travel over TLS, or stay on this machine. Redirects aren't followed: net/http would send
//     X-Auth-Token along.
package direct
