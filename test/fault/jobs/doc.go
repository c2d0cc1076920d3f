// Package jobs injects faults into batch jobs, with real processes, containers and storage. Each test is one fault. After each
// every input stands exactly once in the manifests, each result is that of its item, and nothing is half-written.
package jobs
