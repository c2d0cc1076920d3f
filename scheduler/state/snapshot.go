package state

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/hashicorp/go-memdb"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Snapshots are a stream of SnapshotRecords, each with its length before it as a varint: a header,
// the objects by kind and key, the request IDs by age, and a trailer with the count and the CRC32C of
// all bytes before it. Nothing follows the trailer.
const (
	snapshotFormat = 1
	recordLimit    = 64 << 20 // bytes; a longer record is damage
)

// ErrSnapshot is wrapped by every error of Restore that means that the snapshot itself is damaged.
var ErrSnapshot = errors.New("snapshot is damaged")

// Snapshot is the store at one index, to be written while later commands are applied.
type Snapshot struct{ view view }

// Snapshot takes a picture; it costs nothing but the memory that later changes replace.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{view: s.view()} }

// Index is that of the last command in the snapshot.
func (s *Snapshot) Index() uint64 { return s.view.Index() }

// WriteTo writes the snapshot. Equal stores give equal bytes.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	buffered := bufio.NewWriterSize(w, 1<<16)
	out := &recordWriter{w: buffered, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Header{
		Header: &fleetv1.SnapshotHeader{Format: snapshotFormat, Index: s.Index()},
	}})
	for _, kind := range objectKinds() {
		it := must(s.view.txn.Get(kind, indexID))
		for row := it.Next(); row != nil && out.err == nil; row = it.Next() {
			out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Object{Object: row.(*fleetv1.Object)}})
		}
	}
	it := must(s.view.txn.Get(tableRequests, indexAge))
	for row := it.Next(); row != nil && out.err == nil; row = it.Next() {
		out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Request{Request: row.(*fleetv1.RequestRecord)}})
	}
	out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Trailer{
		Trailer: &fleetv1.SnapshotTrailer{Records: out.records, Crc32C: out.crc.Sum32()},
	}})
	if out.err == nil {
		out.err = buffered.Flush()
	}
	if out.err != nil {
		return out.bytes, fmt.Errorf("write snapshot: %w", out.err)
	}
	return out.bytes, nil
}

type recordWriter struct {
	w       io.Writer
	crc     hash.Hash32
	records uint64
	bytes   int64
	err     error
}

func (w *recordWriter) write(r *fleetv1.SnapshotRecord) {
	if w.err != nil {
		return
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		w.err = err
		return
	}
	for _, b := range [][]byte{binary.AppendUvarint(nil, uint64(len(body))), body} {
		w.crc.Write(b)
		n, err := w.w.Write(b)
		w.bytes += int64(n)
		if err != nil {
			w.err = err
			return
		}
	}
	w.records++
}

// Restore replaces the store by a snapshot. On an error the store is what it was. Feeds resync.
func (s *Store) Restore(r io.Reader) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	db := newDB()
	if err := restoreInto(db, r); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	s.db.Store(db)
	s.feeds.resyncAll()
	return nil
}

// CheckSnapshot reads a snapshot as Restore does, keeps nothing, and answers its index.
func CheckSnapshot(r io.Reader) (index uint64, err error) {
	db := newDB()
	if err := restoreInto(db, r); err != nil {
		return 0, err
	}
	return view{db.Txn(false)}.Index(), nil
}

func restoreInto(db *memdb.MemDB, r io.Reader) error {
	in := &recordReader{r: bufio.NewReaderSize(r, 1<<16), crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	first, err := in.next()
	if err != nil {
		return err
	}
	header := first.GetHeader()
	if header == nil {
		return fmt.Errorf("%w: it doesn't begin with a header", ErrSnapshot)
	}
	if header.GetFormat() != snapshotFormat {
		return fmt.Errorf("snapshot has format %d, this scheduler reads %d", header.GetFormat(), snapshotFormat)
	}
	a := &applying{view: view{db.Txn(true)}, touched: map[Key]int{}}
	defer a.txn.Abort() // does nothing after the commit
	for {
		records, crc := in.records, in.crc.Sum32()
		rec, err := in.next()
		if err != nil {
			return err
		}
		switch k := rec.GetRecord().(type) {
		case *fleetv1.SnapshotRecord_Object:
			err = a.restoreObject(k.Object)
		case *fleetv1.SnapshotRecord_Request:
			if k.Request.GetId() == "" || a.row(tableRequests, indexID, k.Request.GetId()) != nil {
				err = fmt.Errorf("%w: request ID %q is missing or there twice", ErrSnapshot, k.Request.GetId())
				break
			}
			a.insert(tableRequests, k.Request)
			a.requests++
		case *fleetv1.SnapshotRecord_Trailer:
			if err := in.end(k.Trailer, records, crc); err != nil {
				return err
			}
			a.insert(tableRoot, &rootRow{index: header.GetIndex(), requests: a.requests})
			a.txn.Commit()
			return nil
		default:
			err = fmt.Errorf("%w: record %d is of an unknown type", ErrSnapshot, in.records)
		}
		if err != nil {
			return err
		}
	}
}

// restoreObject stores an object as it is, with the tables that are made from it.
func (a *applying) restoreObject(o *fleetv1.Object) error {
	if err := checkObject(o); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	key := KeyOf(o)
	if a.object(key.Kind, indexID, key.Key) != nil {
		return fmt.Errorf("%w: %s is there twice", ErrSnapshot, key)
	}
	if i := o.GetInstance(); i != nil {
		if reason, detail := a.devicesFree(i); reason != "" {
			return fmt.Errorf("%w: %s", ErrSnapshot, detail)
		}
	}
	a.insert(key.Kind, o)
	a.hold(nil, o.GetInstance())
	return nil
}

type recordReader struct {
	r       *bufio.Reader
	crc     hash.Hash32
	records uint64
}

func (r *recordReader) next() (*fleetv1.SnapshotRecord, error) {
	size, err := binary.ReadUvarint(r.r)
	if err != nil {
		return nil, fmt.Errorf("%w: it ends within record %d: %w", ErrSnapshot, r.records+1, noEOF(err))
	}
	if size > recordLimit {
		return nil, fmt.Errorf("%w: record %d claims to have %d bytes", ErrSnapshot, r.records+1, size)
	}
	// Read in steps: a damaged length must not take that much memory.
	body, err := io.ReadAll(io.LimitReader(r.r, int64(size)))
	if err == nil && uint64(len(body)) < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%w: it ends within record %d: %w", ErrSnapshot, r.records+1, err)
	}
	rec := &fleetv1.SnapshotRecord{}
	if err := proto.Unmarshal(body, rec); err != nil {
		return nil, fmt.Errorf("%w: record %d: %w", ErrSnapshot, r.records+1, err)
	}
	r.crc.Write(binary.AppendUvarint(nil, size))
	r.crc.Write(body)
	r.records++
	return rec, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// end checks the trailer, and that nothing follows it.
func (r *recordReader) end(t *fleetv1.SnapshotTrailer, records uint64, crc uint32) error {
	if t.GetRecords() != records {
		return fmt.Errorf("%w: it has %d records, its trailer says %d", ErrSnapshot, records, t.GetRecords())
	}
	if t.GetCrc32C() != crc {
		return fmt.Errorf("%w: its CRC32C is %08x, its trailer says %08x", ErrSnapshot, crc, t.GetCrc32C())
	}
	switch _, err := r.r.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("after the trailer: %w", err)
	}
	return fmt.Errorf("%w: something follows its trailer", ErrSnapshot)
}
