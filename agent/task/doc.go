// Package task runs the items of jobs in the instances of this node.
package task
