// Package boltfile checks bbolt files before bbolt opens them.
//
// bbolt trusts its pages: it maps the file into memory, follows page numbers wherever they lead, and
// panics in goroutines of its own, where nobody can recover. And when the newer of its two meta pages is
// damaged it quietly goes back one transaction, which for a Raft log means forgetting an acknowledged
// write. Check reads the file with ordinary reads, demands both meta pages, and walks every page that is
// in use. It does not look at values: owners put checksums there.
//
// A meta page takes 80 bytes of one disk sector, so a power failure leaves it old or new, not torn: two
// good ones are always there.
package boltfile
