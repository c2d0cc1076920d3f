// Package storagetest runs a real object store for tests, and puts faults between it and who uses it.
//
// The store is Versity's S3 gateway over a directory: a server of its own that checks signatures, pages
// listings and assembles parts, and not a fake that would agree with whatever the client does. It is the
// tool of the module in server, apart from the product's, so that nothing of it is in the product's
// go.mod. The go command builds it once, in about a minute, and keeps it in its build cache.
package storagetest
