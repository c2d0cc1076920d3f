// Package kernellog listens to what the drivers of devices write into the kernel's log, which works where
// the vendor's library hangs, isn't installed, or doesn't tell of an event.
//
// It follows from now on. What was written before isn't read: it would tell of faults that a reset has long
// repaired, and what still stands the driver tells when it is asked. The kernel gives one record a read, and
// says so when records were overwritten before they could be read: those are lost, and the next follow.
//
// Only NVIDIA's lines are known. Ascend's driver writes no line of a stable form; its library tells of faults
// by itself.
package kernellog
