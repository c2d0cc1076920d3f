package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

const (
	magic  = "DROVERB1"
	format = 1
	// pieceSize is how much of the snapshot is in one record; recordLimit is more than any record has.
	pieceSize   = 256 << 10
	recordLimit = 1 << 20
)

// ErrDamaged is wrapped by every error that means that the file can't be trusted.
var ErrDamaged = errors.New("the backup is damaged")

// Write writes a backup file with the header, whose format it sets, of a snapshot.
func Write(w io.Writer, header *fleetv1.BackupHeader, snapshot io.WriterTo) error {
	header.Format = format
	out := &writer{w: w, sum: sha256.New()}
	out.write([]byte(magic))
	out.record(&fleetv1.BackupRecord{Record: &fleetv1.BackupRecord_Header{Header: header}})
	pieces := bufio.NewWriterSize(pieceWriter{out}, pieceSize)
	n, err := snapshot.WriteTo(pieces)
	if err == nil {
		err = pieces.Flush()
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	out.record(&fleetv1.BackupRecord{Record: &fleetv1.BackupRecord_Trailer{
		Trailer: &fleetv1.BackupTrailer{Sha256: out.sum.Sum(nil), SnapshotBytes: uint64(n)},
	}})
	if out.err != nil {
		return fmt.Errorf("write backup: %w", out.err)
	}
	return nil
}

type writer struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (w *writer) write(b []byte) {
	if w.err == nil {
		w.sum.Write(b)
		_, w.err = w.w.Write(b)
	}
}

func (w *writer) record(r *fleetv1.BackupRecord) {
	b, err := proto.Marshal(r)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	w.write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
}

// pieceWriter makes a record of what is written at once.
type pieceWriter struct{ *writer }

func (p pieceWriter) Write(b []byte) (int, error) {
	for piece := b; len(piece) > 0 && p.err == nil; piece = piece[min(len(piece), pieceSize):] {
		p.record(&fleetv1.BackupRecord{Record: &fleetv1.BackupRecord_Snapshot{Snapshot: piece[:min(len(piece), pieceSize)]}})
	}
	return len(b), p.err
}

// Reader reads a backup file: it is the snapshot's bytes. An error other than io.EOF, and every byte before it, means
// that the file is not to be used.
type Reader struct {
	Header *fleetv1.BackupHeader

	r     *bufio.Reader
	sum   hash.Hash
	body  bytes.Buffer // of the record being read
	piece []byte       // what is left of it
	bytes uint64
	err   error
}

// Read reads the file's header.
func Read(r io.Reader) (*Reader, error) {
	in := &Reader{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New()}
	var begin [len(magic)]byte
	if _, err := io.ReadFull(in.r, begin[:]); err != nil && !ends(err) {
		return nil, err
	} else if err != nil || string(begin[:]) != magic {
		return nil, fmt.Errorf("%w: it doesn't begin as a backup of drover does", ErrDamaged)
	}
	in.sum.Write(begin[:])
	first, err := in.next()
	if err != nil {
		return nil, err
	}
	if in.Header = first.GetHeader(); in.Header == nil {
		return nil, fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	if in.Header.GetFormat() != format {
		return nil, fmt.Errorf("the backup has format %d, this program reads %d: use the version that wrote it (%s)",
			in.Header.GetFormat(), format, in.Header.GetVersion())
	}
	return in, nil
}

// Read implements io.Reader: io.EOF comes when the trailer has been checked.
func (r *Reader) Read(b []byte) (int, error) {
	for len(r.piece) == 0 && r.err == nil {
		r.err = r.advance()
	}
	if len(r.piece) == 0 {
		return 0, r.err
	}
	n := copy(b, r.piece)
	r.piece = r.piece[n:]
	return n, nil
}

func (r *Reader) advance() error {
	sum := r.sum.Sum(nil)
	rec, err := r.next()
	if err != nil {
		return err
	}
	switch k := rec.GetRecord().(type) {
	case *fleetv1.BackupRecord_Snapshot:
		r.piece = k.Snapshot
		r.bytes += uint64(len(k.Snapshot))
		return nil
	case *fleetv1.BackupRecord_Trailer:
		if !bytes.Equal(k.Trailer.GetSha256(), sum) || k.Trailer.GetSnapshotBytes() != r.bytes {
			return fmt.Errorf("%w: its SHA-256 is %x, its trailer says %x", ErrDamaged, sum, k.Trailer.GetSha256())
		}
		if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: something follows its trailer", ErrDamaged)
		}
		return io.EOF
	}
	return fmt.Errorf("%w: a record is of an unknown type", ErrDamaged)
}

func (r *Reader) next() (*fleetv1.BackupRecord, error) {
	size, err := binary.ReadUvarint(r.r)
	if err != nil && !ends(err) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: it ends before its trailer", ErrDamaged)
	}
	if size > recordLimit {
		return nil, fmt.Errorf("%w: a record claims to have %d bytes", ErrDamaged, size)
	}
	r.body.Reset()
	if _, err := io.CopyN(&r.body, r.r, int64(size)); err != nil && !ends(err) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: it ends within a record", ErrDamaged)
	}
	r.sum.Write(binary.AppendUvarint(nil, size))
	r.sum.Write(r.body.Bytes())
	rec := &fleetv1.BackupRecord{}
	if err := proto.Unmarshal(r.body.Bytes(), rec); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return rec, nil
}

// ends tells a file that is cut short from one that can't be read.
func ends(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// Load reads a whole file into a store and answers its header. On an error there is no store.
func Load(r io.Reader) (*state.Store, *fleetv1.BackupHeader, error) {
	in, err := Read(r)
	if err != nil {
		return nil, nil, err
	}
	st := state.New()
	if err := st.Restore(in); err != nil {
		if in.err != nil && !errors.Is(in.err, io.EOF) {
			err = in.err // what the state says of it is only what follows
		}
		return nil, nil, err
	}
	view, h := st.View(), in.Header
	if view.Cluster() == nil || view.Cluster().GetMeta().GetId() != h.GetClusterId() || view.Index() != h.GetIndex() ||
		view.Cluster().GetRestoreEpoch() != h.GetRestoreEpoch() {
		return nil, nil, fmt.Errorf("%w: its state is not the one that its header names", ErrDamaged)
	}
	return st, h, nil
}
