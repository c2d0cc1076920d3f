// Package batch holds the formats of batch jobs: what comes in, what goes to the model and comes back, what is kept between,
// and what comes out. It is pure: it knows no storage, no network and no clock, and reads and writes streams that it is
// given. The scheduler checks jobs by it before they start, agents run them by it.
package batch
