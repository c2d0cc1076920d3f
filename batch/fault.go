package batch

import (
	"context"
	"errors"
)

// Fault is whose fault it is that an item has no result, and with that whether it's tried again.
type Fault string

const (
	// NoFault means that there is a result.
	NoFault Fault = ""
	// ItemFault means that the model refuses this input (4xx), or answers it with something that it doesn't declare; or
	// that the input can't be sent at all. Trying again rarely helps.
	ItemFault Fault = "item"
	// ModelFault means that the model gives no answer in time and of a bearable size: 5xx, a broken connection, a crash.
	// Another try may go well.
	ModelFault Fault = "model"
	// InfrastructureFault means that the node was lost, the instance preempted, or the storage away. It never counts
	// against the item.
	InfrastructureFault Fault = "infrastructure"
)

// StatusFault says whose fault an answer's HTTP status is. Too many requests and a request that took too long to arrive
// (429, 408) say nothing about the input; a redirect isn't followed, and is the model's.
func StatusFault(status int) Fault {
	switch {
	case status >= 200 && status < 300:
		return NoFault
	case status == 408 || status == 429:
		return ModelFault
	case status >= 400 && status < 500:
		return ItemFault
	}
	return ModelFault
}

// RequestFault says whose fault it is that a request got no answer, or not all of one. leaving tells that the instance is
// being stopped or its node is lost: then nothing is the model's fault. A cancelled request is never the model's, one that
// ran out of time is.
func RequestFault(err error, leaving bool) Fault {
	switch {
	case err == nil:
		return NoFault
	case leaving || errors.Is(err, context.Canceled):
		return InfrastructureFault
	}
	return ModelFault
}
