package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// An entry is a version byte, the CRC32C of the rest (big endian), and the Command.
const (
	frameVersion = 1
	frameHeader  = 5
)

var errFrame = errors.New("log entry is damaged")

func checksum(b []byte) uint32 { return checksumAfter(0, b) }

// checksumAfter goes on from the checksum of what comes before b.
func checksumAfter(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b) // which is made once
}

func encodeFrame(cmd *fleetv1.Command) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, frameHeader, frameHeader+256), cmd)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	b[0] = frameVersion
	binary.BigEndian.PutUint32(b[1:frameHeader], checksum(b[frameHeader:]))
	return b, nil
}

// checkFrame says whether the bytes are those that were proposed.
func checkFrame(b []byte) error {
	switch {
	case len(b) < frameHeader:
		return fmt.Errorf("%w: it has %d bytes", errFrame, len(b))
	case b[0] != frameVersion:
		return fmt.Errorf("%w: it has version %d, this scheduler reads %d", errFrame, b[0], frameVersion)
	case binary.BigEndian.Uint32(b[1:frameHeader]) != checksum(b[frameHeader:]):
		return fmt.Errorf("%w: its CRC32C is wrong", errFrame)
	}
	return nil
}

func decodeFrame(b []byte) (*fleetv1.Command, error) {
	if err := checkFrame(b); err != nil {
		return nil, err
	}
	cmd := &fleetv1.Command{}
	if err := proto.Unmarshal(b[frameHeader:], cmd); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return cmd, nil
}
