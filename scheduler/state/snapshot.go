package state

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

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

// ErrNewer means that a snapshot was made from commands of a newer program, which this one might read wrongly.
var ErrNewer = errors.New("snapshot is of a newer program")

// Snapshot is the store at one index, to be written while later commands are applied.
type Snapshot struct {
	view  view
	leave []string
}

// Snapshot takes a picture; it costs nothing but the memory that later changes replace.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{view: s.view()} }

// Index is that of the last command in the snapshot.
func (s *Snapshot) Index() uint64 { return s.view.Index() }

// View is the picture that the snapshot is of.
func (s *Snapshot) View() ReadView { return s.view }

// Without is the snapshot without the objects of these kinds, of which this program need not know all.
func (s *Snapshot) Without(kinds ...string) *Snapshot {
	return &Snapshot{view: s.view, leave: kinds}
}

// WriteTo writes the snapshot. Equal stores give equal bytes.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	buffered := bufio.NewWriterSize(w, 1<<16)
	out := &recordWriter{w: buffered, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Header{
		Header: &fleetv1.SnapshotHeader{Format: snapshotFormat, Index: s.Index(), Introduced: s.view.t.introduced},
	}})
	for _, kind := range objectKinds() {
		if slices.Contains(s.leave, kind) {
			continue
		}
		s.view.t.of(kind).Scan(func(_ string, o *fleetv1.Object) bool {
			out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Object{Object: o}})
			return out.err == nil
		})
	}
	s.view.t.requestsByAge.Scan(func(_ string, r *fleetv1.RequestRecord) bool {
		out.write(&fleetv1.SnapshotRecord{Record: &fleetv1.SnapshotRecord_Request{Request: r}})
		return out.err == nil
	})
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

	size, body []byte // of the record being written
}

func (w *recordWriter) write(r *fleetv1.SnapshotRecord) {
	if w.err != nil {
		return
	}
	if w.body, w.err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(w.body[:0], r); w.err != nil {
		return
	}
	w.size = binary.AppendUvarint(w.size[:0], uint64(len(w.body)))
	for _, b := range [][]byte{w.size, w.body} {
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
	t, err := readSnapshot(r, &s.alike)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	s.current.Store(t)
	s.feeds.resyncAll()
	return nil
}

// CheckSnapshot reads a snapshot as Restore does, keeps nothing, and answers its index.
func CheckSnapshot(r io.Reader) (index uint64, err error) {
	t, err := readSnapshot(r, &alike{})
	if err != nil {
		return 0, err
	}
	return t.index, nil
}

func readSnapshot(r io.Reader, words *alike) (*tables, error) {
	in := &recordReader{r: bufio.NewReaderSize(r, 1<<16), crc: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	first, err := in.next()
	if err != nil {
		return nil, err
	}
	header := first.GetHeader()
	if header == nil {
		return nil, fmt.Errorf("%w: it doesn't begin with a header", ErrSnapshot)
	}
	if header.GetFormat() != snapshotFormat {
		return nil, fmt.Errorf("snapshot has format %d, this scheduler reads %d", header.GetFormat(), snapshotFormat)
	}
	newer := header.GetIntroduced() > CommandVersion // if that isn't damage: its records are read, and mean nothing
	a := &applying{view: view{newTables()}, alike: words}
	a.t.introduced = header.GetIntroduced()
	for {
		records, crc := in.records, in.crc.Sum32()
		rec, err := in.next()
		if err != nil {
			return nil, err
		}
		switch k := rec.GetRecord().(type) {
		case *fleetv1.SnapshotRecord_Trailer:
			if err := in.end(k.Trailer, records, crc); err != nil {
				return nil, err
			}
			if newer {
				return nil, fmt.Errorf("%w: it holds what came with command version %d, and this scheduler knows up to %d: run the newer program again",
					ErrNewer, header.GetIntroduced(), CommandVersion)
			}
			a.t.index = header.GetIndex()
			return a.t, nil
		case *fleetv1.SnapshotRecord_Object:
			if newer {
				continue
			}
			err = a.restoreObject(k.Object)
		case *fleetv1.SnapshotRecord_Request:
			if k.Request.GetId() == "" || get(a.t.requests, requestKey(k.Request.GetScope(), k.Request.GetId())) != nil {
				err = fmt.Errorf("%w: request ID %q is missing or there twice", ErrSnapshot, k.Request.GetId())
				break
			}
			a.t.requests.Set(requestKey(k.Request.GetScope(), k.Request.GetId()), k.Request)
			a.t.requestsByAge.Set(requestAge(k.Request), k.Request)
		default:
			if newer {
				continue
			}
			err = fmt.Errorf("%w: record %d is of an unknown type", ErrSnapshot, in.records)
		}
		if err != nil {
			return nil, err
		}
	}
}

// restoreObject stores an object as it is, with the tables that are made from it.
func (a *applying) restoreObject(o *fleetv1.Object) error {
	if err := checkObject(o); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	key := KeyOf(o)
	if a.t.object(key) != nil {
		return fmt.Errorf("%w: %s is there twice", ErrSnapshot, key)
	}
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Node:
		a.alike.node(k.Node, nil)
	case *fleetv1.Object_Instance:
		if reason, detail := a.devicesFree(k.Instance); reason != "" {
			return fmt.Errorf("%w: %s", ErrSnapshot, detail)
		}
		a.noteModels(k.Instance.GetSpec())
		a.alike.instance(k.Instance, nil)
		a.use(nil, k.Instance)
	}
	a.t.set(key, o)
	return nil
}

// noteModels writes down the models of an instance's devices, by which quotas count, where an older version of this
// program placed it and left them out.
func (a *applying) noteModels(s *fleetv1.InstanceSpec) {
	n := get(a.t.nodes, s.GetNode()).GetNode()
	if n == nil || len(s.GetDeviceModels()) > 0 {
		return
	}
	for _, id := range s.GetDeviceIds() {
		s.DeviceModels = append(s.DeviceModels, DeviceOf(n, id).GetModel())
	}
}

type recordReader struct {
	r       *bufio.Reader
	crc     hash.Hash32
	records uint64
	body    bytes.Buffer // of the record being read
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
	r.body.Reset()
	if _, err := io.CopyN(&r.body, r.r, int64(size)); err != nil {
		return nil, fmt.Errorf("%w: it ends within record %d: %w", ErrSnapshot, r.records+1, noEOF(err))
	}
	body := r.body.Bytes()
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
