package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drover-fleet/drover/devices"
)

// A frame is its length, four bytes with the highest first, and as many bytes of JSON. Sixty-four devices
// with all their links and processes are a tenth of mostBytes.
const mostBytes = 4 << 20

var errFrame = errors.New("broken frame")

// call says what a request asks for.
type call string

const (
	callDiscover call = "discover"
	callSample   call = "sample"
	// callWatch asks for signals. It is answered when watching ends.
	callWatch call = "watch"
)

// request goes to the child.
type request struct {
	ID      uint64          `json:"id"`
	Call    call            `json:"call"`
	Figures devices.Figures `json:"figures,omitempty"`
	Within  time.Duration   `json:"within,omitempty"` // after which no one waits for the answer
}

// reply comes from the child: a signal, or else the answer to the request of the same ID.
type reply struct {
	ID           uint64           `json:"id,omitempty"`
	Devices      []devices.Device `json:"devices,omitempty"`
	Samples      []devices.Sample `json:"samples,omitempty"`
	Error        string           `json:"error,omitempty"`
	Unresponsive bool             `json:"unresponsive,omitempty"` // the error is devices.ErrUnresponsive
	Signal       *devices.Signal  `json:"signal,omitempty"`
}

func (r *reply) setError(err error) {
	if err != nil {
		r.Error, r.Unresponsive = err.Error(), errors.Is(err, devices.ErrUnresponsive)
	}
}

func (r *reply) err() error {
	switch {
	case r.Unresponsive:
		return fmt.Errorf("%w: %s", devices.ErrUnresponsive, r.Error)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// readFrame reads one frame into v. At the end between two frames it answers io.EOF itself.
func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read the length of a frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > mostBytes {
		return fmt.Errorf("%w: %d bytes are announced, the most are %d", errFrame, n, mostBytes)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read a frame of %d bytes: %w", n, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// writeFrame writes v in one piece.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	if len(body) > mostBytes {
		return fmt.Errorf("%w: %d bytes, the most are %d", errFrame, len(body), mostBytes)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	return nil
}
