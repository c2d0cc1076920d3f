// Package vendorlib builds libraries that stand in for the accelerator vendors': C sources in the folder of
// each, compiled by the test that wants one, with flags that choose what the library lacks. What it does is
// set while it runs; the top of each source says how.
//
// It is C because the point is the real way in: the loader, the symbol look-up, the layout of structs, calls
// back from threads that Go didn't start. Without a C compiler the test is skipped, and says so.
package vendorlib
