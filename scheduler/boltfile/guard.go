package boltfile

import (
	"fmt"
	"runtime/debug"
)

// PanicError is a panic of bbolt, or a fault in the memory that it maps the file to.
type PanicError struct{ Value any }

func (e *PanicError) Error() string { return fmt.Sprintf("bbolt failed: %v", e.Value) }

// Guard runs do, which calls bbolt, and answers its panics as a *PanicError. It can't help against those
// of bbolt's own goroutines: Check comes first.
func Guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p}
		}
	}()
	return do()
}
