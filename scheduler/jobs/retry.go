package jobs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// textKey stands for a source or a name: there may be a million.
type textKey [16]byte

func keyOf(text string) textKey {
	sum := sha256.Sum256([]byte(text))
	return textKey(sum[:16])
}

// retry lists the FAILED items of the manifests that stood when the retry was asked for, under the names that they have, and
// then takes their lines out of these manifests. The position is how many of them are listed, and which manifests those were.
// What was checked of an input when it was listed first isn't any more: it may have been put right.
func (l *lister) retry(job *fleetv1.Job, ledger *fleetv1.JobLedger) error {
	skip, manifests, err := parseRetry(l.position, ledger)
	if err != nil {
		return err
	}
	output, err := storage.ParseURL(job.GetSpec().GetOutput())
	if err != nil {
		return err
	}
	failed, stand, err := l.failed(output, manifests)
	if err != nil {
		return err
	}
	l.again = true
	listed := int64(0)
	for _, part := range ledger.GetParts() {
		if part.GetAgain() {
			continue // of an earlier retry: these items have a number of before
		}
		items, err := readPart(l.ctx, l.store, l.dir, part)
		if err != nil {
			return err
		}
		for _, item := range items {
			source := keyOf(storage.Unsigned(item.Source))
			if failed[source] == 0 || stand[keyOf(item.Name)] {
				continue
			}
			failed[source]--
			if listed++; listed <= skip {
				continue
			}
			l.position = retryPosition(listed, manifests)
			if err := l.add(batch.Item{Source: item.Source, Size: -1, Name: item.Name, Error: item.Error}); err != nil {
				return err
			}
		}
	}
	for _, unlisted := range failed {
		if unlisted > 0 { // its line is all that there is of it
			return fmt.Errorf("%w: a FAILED line of its manifests names none of its items", errDamaged)
		}
	}
	if err := l.flush(false); err != nil {
		return err
	}
	if err := l.await(0); err != nil {
		return err
	}
	return l.strip(output, manifests)
}

// failed counts the FAILED lines by source. stand are the names of results of the same sources: an input may be listed twice.
func (l *lister) failed(output storage.URL, manifests []*fleetv1.TaskManifests) (failed map[textKey]int, stand map[textKey]bool, err error) {
	failed, stand = map[textKey]int{}, map[textKey]bool{}
	err = l.lines(output, manifests, func(_ storage.URL, line batch.ManifestLine) {
		if line.Result == batch.Failed {
			failed[keyOf(line.Source)]++
		}
	})
	if err != nil {
		return nil, nil, err
	}
	err = l.lines(output, manifests, func(_ storage.URL, line batch.ManifestLine) {
		if line.Result != batch.Failed && failed[keyOf(line.Source)] > 0 {
			stand[keyOf(path.Base(line.Location))] = true
		}
	})
	return failed, stand, err
}

// lines reads manifests. They lie where the project can write: of more lines than the job has items they aren't its own.
func (l *lister) lines(output storage.URL, manifests []*fleetv1.TaskManifests, each func(storage.URL, batch.ManifestLine)) error {
	left := l.from
	for _, t := range manifests {
		for n := range t.GetManifests() {
			u, err := output.Join(batch.ManifestName(t.GetTask(), n))
			if err != nil {
				return err
			}
			if err := l.manifestLines(u, &left, func(line batch.ManifestLine) { each(u, line) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) manifestLines(u storage.URL, left *int64, each func(batch.ManifestLine)) error {
	body, _, err := l.store.Read(l.ctx, u, storage.ReadOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	faults := &readFaults{r: body}
	reader := batch.NewManifestReader(faults)
	for {
		line, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && faults.err != nil:
			return faults.err
		case err != nil:
			return fmt.Errorf("%w: %s: %w", errDamaged, u, err)
		case *left == 0:
			return fmt.Errorf("%w: with %s, the manifests have more lines than the job has items", errDamaged, u)
		}
		*left--
		each(line)
	}
}

// strip takes the FAILED lines out of manifests.
func (l *lister) strip(output storage.URL, manifests []*fleetv1.TaskManifests) error {
	for _, t := range manifests {
		for n := range t.GetManifests() {
			u, err := output.Join(batch.ManifestName(t.GetTask(), n))
			if err != nil {
				return err
			}
			var kept []byte
			had, left := false, l.from
			if err := l.manifestLines(u, &left, func(line batch.ManifestLine) {
				if line.Result == batch.Failed {
					had = true
				} else {
					kept = line.Append(kept)
				}
			}); err != nil {
				return err
			}
			if !had {
				continue
			}
			if err := l.store.Write(l.ctx, u, bytes.NewReader(kept), int64(len(kept))); err != nil {
				return err
			}
		}
	}
	return nil
}

// retryPosition says how many FAILED items are listed, of the lines of which manifests: of each task so many.
func retryPosition(listed int64, manifests []*fleetv1.TaskManifests) string {
	b := fmt.Appendf(nil, "%s %d", fleetv1.PositionOfRetry, listed)
	for _, t := range manifests {
		b = fmt.Appendf(b, " %s:%d", t.GetTask(), t.GetManifests())
	}
	return string(b)
}

// parseRetry reads a position. Before the first part is committed there are no other manifests than those of before.
func parseRetry(position string, ledger *fleetv1.JobLedger) (listed int64, manifests []*fleetv1.TaskManifests, err error) {
	if position == fleetv1.PositionOfRetry {
		return 0, ledger.GetTasks(), nil
	}
	bad := fmt.Errorf("%w: its position %q is none of a retry", errDamaged, position)
	fields := strings.Fields(position)
	if len(fields) < 2 || fields[0] != fleetv1.PositionOfRetry {
		return 0, nil, bad
	}
	if listed, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
		return 0, nil, bad
	}
	for _, f := range fields[2:] {
		task, count, _ := strings.Cut(f, ":")
		n, err := strconv.ParseInt(count, 10, 32)
		if err != nil {
			return 0, nil, bad
		}
		manifests = append(manifests, &fleetv1.TaskManifests{Task: task, Manifests: int32(n)})
	}
	return listed, manifests, nil
}
