// Command demo shows Drover at work on this machine: it starts `drover dev`, serves the iris example's image
// from a registry in this process, deploys it, finds its endpoints and calls them. `make demo` runs it.
//
// Every command is shown before its output. On a terminal everything stays up until Ctrl-C; otherwise, and on
// any failure, all is removed again: containers, containerd, network, files. It uses the command line and HTTP
// alone, as anybody would.
package main
