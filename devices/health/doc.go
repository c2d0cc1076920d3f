// Package health decides how healthy a device is, and what that means for those who use it. It knows no
// clock and asks nobody: a Judge is told what was discovered, measured and signalled, each with its time, and
// answers a verdict. The same tale gives the same verdicts.
//
// One table (Rows) says what each sign means and what to do; docs/device-health.md is made of it. Actions are
// ordered, each holds what the ones before it say: observe, drain (place nothing new), evict (withdraw
// endpoints first, then replace the instances), reset-needed and reboot-needed (evict, and the device stays
// out until that was done).
//
// What brings a device back:
//   - A clean check: a sample of its condition, taken after the fault, that shows none. Silence proves nothing.
//     A fault that a figure showed stands until the same figure says otherwise; that the figure is absent now
//     says nothing.
//   - The check that counts comes some time after the fault: a minute, doubling with each relapse up to an
//     hour, and halving for each hour in health. A driver that answers again after it was silent is
//     believed at once, the first time. So a verdict changes only when something is told, and needs no timer.
//   - A device that needs a reset or a reboot is back only when there's a sign of it: the driver says that
//     no recovery is needed, or tells of the reset, or its counters started anew. A restart of the
//     agent forgets; what is then still wrong shows in the driver's figures.
//
// A slice is no better than the device that it is cut from.
package health

//go:generate go test -run TestDocument -update
