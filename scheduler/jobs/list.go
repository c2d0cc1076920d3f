package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// Storage is what a run needs of one; *storage.Storage is one.
type Storage interface {
	List(ctx context.Context, folder storage.URL, after string) iter.Seq2[storage.Object, error]
	Read(ctx context.Context, u storage.URL, opts storage.ReadOptions) (io.ReadCloser, storage.Object, error)
	Stat(ctx context.Context, u storage.URL) (storage.Object, error)
	Write(ctx context.Context, u storage.URL, r io.ReaderAt, size int64) error
	Delete(ctx context.Context, u storage.URL) error
	Close()
}

// Bounds of listing.
const (
	mostFound   = 16              // parts that wait to be committed
	firstRetry  = time.Second     // after an error, doubling
	lastRetry   = time.Minute     // likewise
	refusalTime = 2 * time.Minute // for which a storage may refuse, or miss what is to be listed
)

// errOvertaken: the ledger has something else where this lister wanted to put what it had found.
var errOvertaken = errors.New("the input is being listed by another leader")

// list has the input listed from where that stopped, until all of it is in the ledger or the run ends.
func (r *run) list() {
	defer func() {
		r.mu.Lock()
		r.listing = false
		r.mu.Unlock()
		r.wake()
	}()
	retry, refused := firstRetry, time.Time{}
	for r.ctx.Err() == nil {
		done, err := r.listOnce()
		if r.ctx.Err() != nil || done {
			return
		}
		now := time.Now()
		lasts := errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDenied)
		switch {
		case !lasts:
			refused = time.Time{}
		case refused.IsZero():
			refused = now
		}
		if errors.Is(err, storage.ErrInvalid) || errors.Is(err, storage.ErrChanged) || errors.Is(err, errDamaged) || lasts && now.Sub(refused) >= refusalTime {
			r.fail("the input can't be listed: " + err.Error())
			return
		}
		if errors.Is(err, errOvertaken) {
			retry = firstRetry
		} else {
			r.setTrouble("the input can't be listed: " + err.Error())
		}
		r.pause(retry)
		retry = min(2*retry, lastRetry)
	}
}

// listOnce lists until the end, which it answers, or an error.
func (r *run) listOnce() (done bool, err error) {
	r.mu.Lock()
	project := r.book.job.GetMeta().GetProject()
	r.mu.Unlock()
	own := r.listsFor(project)
	if err := take(r.ctx, own); err != nil {
		return false, err
	}
	defer func() { <-own }()
	if err := take(r.ctx, r.lists); err != nil {
		return false, err
	}
	defer func() { <-r.lists }()
	if err := r.await(0); err != nil && !errors.Is(err, errOvertaken) {
		return false, err
	}
	r.mu.Lock()
	job, ledger := r.book.job, r.book.ledger
	r.overtaken = false
	r.mu.Unlock()
	if ledger.GetListed() || ledger.GetFailure() != "" {
		return true, nil
	}
	store, err := r.cfg.Storage(job.GetMeta().GetProject())
	if err != nil {
		return false, err
	}
	defer store.Close()
	l := &lister{run: r, store: store, namer: batch.NewNamer(), from: ledger.GetItems(), part: len(ledger.GetParts()), position: ledger.GetPosition()}
	err = l.all(job, ledger)
	if err == nil {
		err = l.flush(true)
	}
	if err == nil {
		err = r.await(0)
	}
	if err == nil {
		r.setTrouble("")
	}
	return err == nil, err
}

// take waits for room for one more token.
func take(ctx context.Context, tokens chan<- struct{}) error {
	select {
	case tokens <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listsFor holds a token for each input of the project that is being listed, or is next.
func (t *term) listsFor(project string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listsOf[project] == nil {
		t.listsOf[project] = make(chan struct{}, listersOfProject)
	}
	return t.listsOf[project]
}

// all lists what the ledger doesn't have yet.
func (l *lister) all(job *fleetv1.Job, ledger *fleetv1.JobLedger) (err error) {
	if l.dir, err = storage.ParseURL(directoryOf(job)); err != nil {
		return err
	}
	if strings.HasPrefix(l.position, fleetv1.PositionOfRetry) {
		return l.retry(job, ledger)
	}
	if err := l.names(ledger); err != nil {
		return err
	}
	input, err := storage.ParseURL(job.GetSpec().GetInput())
	switch {
	case err != nil:
		return err
	case strings.HasSuffix(input.Key, ".manifest"):
		return l.manifest(input)
	}
	return l.folder(input)
}

func (r *run) setTrouble(line string) {
	r.mu.Lock()
	r.trouble = line
	r.mu.Unlock()
	r.hooks.call(r.id)
}

// fail has the job fail.
func (r *run) fail(reason string) {
	r.mu.Lock()
	r.failure, r.trouble = reason, ""
	r.mu.Unlock()
	r.wake()
}

// put has something committed that was found.
func (r *run) put(f found) error {
	r.mu.Lock()
	if r.overtaken { // what comes behind it is nothing
		r.mu.Unlock()
		return errOvertaken
	}
	r.found = append(r.found, f)
	r.mu.Unlock()
	r.wake()
	return r.await(mostFound - 1)
}

// await waits until no more than so much of what was found is uncommitted.
func (r *run) await(most int) error {
	for {
		r.mu.Lock()
		overtaken, waiting := r.overtaken, len(r.found)
		r.mu.Unlock()
		if overtaken {
			return errOvertaken
		}
		if waiting <= most {
			return nil
		}
		select {
		case <-r.settled:
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
}

// lister writes the index of a job's input, part by part. It holds one part, and 8 bytes of each name that it has given.
type lister struct {
	*run
	store    Storage
	namer    *batch.Namer
	dir      storage.URL
	from     int64 // number of the next part's first item
	part     int   // number of the next part
	again    bool  // its items are FAILED ones of before
	position string
	buffer   bytes.Buffer
	writer   *batch.PartWriter // nil between parts
}

// names tells the namer of the names that earlier listers have given.
func (l *lister) names(ledger *fleetv1.JobLedger) error {
	for _, part := range ledger.GetParts() {
		items, err := readPart(l.ctx, l.store, l.dir, part)
		if err != nil {
			return err
		}
		for _, item := range items {
			l.namer.Take(item.Name)
		}
	}
	return nil
}

// errDamaged: what Drover has written itself can't be read any more.
var errDamaged = errors.New("what lies beside the output is damaged")

// readPart reads all items of a part.
func readPart(ctx context.Context, store Storage, dir storage.URL, part *fleetv1.InputPart) ([]batch.Item, error) {
	u, err := dir.Join(part.GetObject())
	if err != nil {
		return nil, err
	}
	body, _, err := store.Read(ctx, u, storage.ReadOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	faults := &readFaults{r: body}
	items, err := batch.ReadPart(faults, part.GetFrom(), part.GetFrom(), part.GetFrom()+part.GetItems())
	if err != nil && faults.err != nil {
		return nil, faults.err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDamaged, u, err)
	}
	return items, nil
}

// readFaults keeps the error of a reader, so that it can be told from one about what was read.
type readFaults struct {
	r   io.Reader
	err error
}

func (f *readFaults) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// How positions begin, besides fleetv1.PositionOfRetry.
const (
	positionOfKey  = "key "
	positionOfLine = "line "
)

// folder lists what is in one, in the order of the keys. The position is the last key. One that is empty at the end, though the
// job was admitted for what it held, isn't taken for listed: a directory may not be mounted here.
func (l *lister) folder(folder storage.URL) error {
	for o, err := range l.store.List(l.ctx, folder, strings.TrimPrefix(l.position, positionOfKey)) {
		if err != nil {
			return err
		}
		l.position = positionOfKey + o.URL.Key
		if err := l.add(batch.Item{Source: o.URL.Signed(), Size: o.Size, ETag: o.ETag}); err != nil {
			return err
		}
	}
	for _, err := range l.store.List(l.ctx, folder, "") {
		return err // something is there still
	}
	return &storage.Error{Op: "list", URL: folder, Kind: storage.ErrNotFound, Why: "nothing is in it any more"}
}

// manifest lists the inputs that a manifest names. The position is the number of the last line and what the manifest was
// then: one that is changed meanwhile would have items come twice, or never.
func (l *lister) manifest(u storage.URL) error {
	var last int
	var opts storage.ReadOptions
	if l.position != "" {
		if _, err := fmt.Sscanf(l.position, positionOfLine+"%d %q", &last, &opts.IfETag); err != nil {
			return fmt.Errorf("%w: its position %q is none in a manifest", errDamaged, l.position)
		}
	}
	body, object, err := l.store.Read(l.ctx, u, opts)
	if err != nil {
		return err
	}
	defer body.Close()
	sources := batch.NewSources(body)
	for {
		source, err := sources.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if source.Line <= last {
			continue
		}
		l.position = fmt.Sprintf(positionOfLine+"%d %q", source.Line, object.ETag)
		item := batch.Item{Source: source.URL, Size: -1}
		if source.Err != nil {
			item.Source, item.Error = fmt.Sprintf("%s:%d", path.Base(u.Key), source.Line), source.Err.Error()
		}
		if err := l.add(item); err != nil {
			return err
		}
	}
}

// add gives an item its number, and a name if it has none, and ends a part that is full.
func (l *lister) add(item batch.Item) error {
	if l.from >= mostItemsOfJob && !l.again {
		return fmt.Errorf("%w: it has more than %d items; make several jobs of it", storage.ErrInvalid, mostItemsOfJob)
	}
	if l.writer == nil {
		l.buffer.Reset()
		l.writer = batch.NewPartWriter(&l.buffer, l.from)
	}
	if item.N = l.from + l.writer.Items(); item.Name == "" {
		item.Name = l.namer.Name(item.Source)
	}
	if err := l.writer.Write(item); err != nil {
		return fmt.Errorf("%w: %w", storage.ErrInvalid, err)
	}
	if l.writer.Items() < batch.PartItems {
		return nil
	}
	return l.flush(false)
}

// flush writes what there is of a part and has it committed. listed says that it is the last one.
func (l *lister) flush(listed bool) error {
	if l.writer == nil {
		if listed {
			return l.put(found{listed: true, position: l.position})
		}
		return nil
	}
	if err := l.writer.Close(); err != nil {
		return err
	}
	part := &fleetv1.InputPart{From: l.from, Items: l.writer.Items(), Again: l.again, Object: fmt.Sprintf("input-%d-%s.jsonl", l.part, l.cfg.NewAttempt())}
	u, err := l.dir.Join(part.GetObject())
	if err != nil {
		return err
	}
	if err := l.store.Write(l.ctx, u, bytes.NewReader(l.buffer.Bytes()), int64(l.buffer.Len())); err != nil {
		return err
	}
	l.from, l.part, l.writer = l.from+part.GetItems(), l.part+1, nil
	return l.put(found{part: part, listed: listed, position: l.position})
}
