package jobs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// ended has the job of a leader completed by hand: every third item FAILED, in two manifests. It answers what failed.
func (l *leader) ended() (failed []batch.Item) {
	l.t.Helper()
	l.after(3 * time.Second)
	items := l.items()
	half := int64(len(items) / 2)
	manifest := func(task string, number int32, items []batch.Item) *fleetv1.Chunk {
		c := &fleetv1.Chunk{From: items[0].N, To: items[len(items)-1].N + 1, Task: task, Attempt: fmt.Sprint("by hand ", number)}
		var text []byte
		for _, item := range items {
			source := storage.Unsigned(item.Source)
			line := batch.ManifestLine{Source: source, Result: batch.Successful, Location: "file:///o/" + item.Name}
			if c.Successful++; item.N%3 == 0 {
				line = batch.ManifestLine{Source: source, Result: batch.Failed, Message: "no"}
				failed = append(failed, item)
				c.Failed++
				c.Successful--
			}
			text = line.Append(text)
		}
		if err := os.WriteFile(filepath.Join(l.dir, "out", batch.ManifestName(task, number)), text, 0o600); err != nil {
			l.t.Fatal(err)
		}
		return c
	}
	for number, chunk := range []*fleetv1.Chunk{manifest("0", 0, items[:half]), manifest("0", 1, items[half:])} {
		l.commit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{chunk}, Seal: []string{"0"}})
		l.commit(&fleetv1.JobCommit{JobId: "jid", Written: []*fleetv1.Manifest{{Task: "0", Number: int32(number)}}})
	}
	return failed
}

func (l *leader) commit(c *fleetv1.JobCommit) {
	l.t.Helper()
	r, err := l.Propose(l.t.Context(), &fleetv1.Command{Op: &fleetv1.Command_JobCommit{JobCommit: c}})
	if err != nil || len(r.Rejections) > 0 {
		l.t.Fatalf("commit: %v, %v", r.Rejections, err)
	}
}

// retry asks for one, and has another leader carry it out.
func (l *leader) retry() {
	l.c.Resign()
	l.askRetry()
	l.c.Lead(l.t.Context())
}

// askRetry asks for a retry as the API does.
func (l *leader) askRetry() {
	led, job := proto.CloneOf(l.ledger()), proto.CloneOf(l.job())
	led.Listed, led.Position = false, fleetv1.PositionOfRetry
	job.Desired.Run++
	l.write(state.Put(led.GetMeta().GetRevision(), led), state.Put(job.GetMeta().GetRevision(), job))
}

// TestRetry: the FAILED items are listed again under their names, and their old lines go; also when it is interrupted anywhere.
func TestRetry(t *testing.T) {
	for _, interrupted := range []string{"", "read", "write"} {
		t.Run("interrupted "+interrupted, func(t *testing.T) {
			lead(t, 20, func(l *leader) {
				failed := l.ended()
				calls := 0
				l.set(func() {
					l.faults = func(op string, _ storage.URL) error {
						if calls++; op == interrupted && calls%3 != 0 {
							return &storage.Error{Op: op, Kind: storage.ErrTemporary, Why: "because"}
						}
						return nil
					}
				})
				l.retry()
				l.after(2 * time.Second)
				l.c.Resign() // and another leader
				l.c.Lead(l.t.Context())
				l.after(30 * time.Minute)
				l.set(func() { l.faults = nil })
				l.after(5 * time.Minute)
				led := l.ledger()
				if !led.GetListed() || led.GetFailure() != "" || led.GetAgain() != int64(len(failed)) || led.GetFailed() != 0 || led.GetItems() != 20+led.GetAgain() {
					t.Fatalf("the ledger is %v", led)
				}
				again := l.items()[20:]
				if !slices.EqualFunc(again, failed, func(a, b batch.Item) bool { return a.Source == b.Source && a.Name == b.Name && a.ETag == "" }) {
					t.Errorf("again are %v, want %v", again, failed)
				}
				lines := 0
				for n := range int32(2) {
					f, err := os.Open(filepath.Join(l.dir, "out", batch.ManifestName("0", n)))
					if err != nil {
						t.Fatal(err)
					}
					r := batch.NewManifestReader(f)
					for line, err := r.Next(); err == nil; line, err = r.Next() {
						if lines++; line.Result == batch.Failed {
							t.Errorf("line %v is still there", line)
						}
					}
					f.Close()
				}
				if lines != 20-len(failed) {
					t.Errorf("%d lines are left", lines)
				}
			})
		})
	}
}

// TestRetryAtOnce: a retry, or another start, may come before the coordinator has heard that the run is over.
func TestRetryAtOnce(t *testing.T) {
	lead(t, 6, func(l *leader) {
		failed := l.ended()
		l.askRetry()
		l.after(time.Minute)
		if led := l.ledger(); !led.GetListed() || led.GetAgain() != int64(len(failed)) {
			t.Fatalf("after the retry the ledger is %v", led)
		}
		l.c.run("jid").fail("it's the test's")
		l.after(3 * time.Second)
		led := proto.CloneOf(l.ledger())
		if led.GetFailure() == "" {
			t.Fatal("it hasn't failed")
		}
		led.Failure, led.Listed = "", false
		l.write(state.Put(led.GetMeta().GetRevision(), led))
		l.after(time.Minute)
		if led := l.ledger(); !led.GetListed() || led.GetFailure() != "" {
			t.Errorf("after the start the ledger is %v", led)
		}
	})
}

// TestOvertakenListerStops: what a lister finds behind a part that the ledger has refused isn't put.
func TestOvertakenListerStops(t *testing.T) {
	r := &run{term: &term{}, ctx: t.Context(), overtaken: true, wakeup: make(chan struct{}, 1)}
	if err := r.put(found{part: &fleetv1.InputPart{From: 1, Items: 1, Object: "x"}}); !errors.Is(err, errOvertaken) || len(r.found) != 0 {
		t.Errorf("%v, %v", err, r.found)
	}
}

// TestRetryKeepsWhatItCannotList: a FAILED line that names none of the items stays, and the retry fails.
func TestRetryKeepsWhatItCannotList(t *testing.T) {
	lead(t, 6, func(l *leader) {
		l.ended()
		name := filepath.Join(l.dir, "out", batch.ManifestName("0", 1))
		stranger := batch.ManifestLine{Source: "file:///nowhere", Result: batch.Failed, Message: "no"}.Append(nil)
		if err := os.WriteFile(name, stranger, 0o600); err != nil {
			t.Fatal(err)
		}
		l.retry()
		l.after(time.Minute)
		if content, err := os.ReadFile(name); err != nil || string(content) != string(stranger) {
			t.Errorf("the manifest is %q, %v", content, err)
		}
		if led := l.ledger(); !strings.Contains(led.GetFailure(), "names none of its items") || led.GetListed() {
			t.Errorf("the ledger is %v", led)
		}
	})
}

// FuzzRetryPosition: what is read is what was written, and nothing else is taken.
func FuzzRetryPosition(f *testing.F) {
	f.Add("retry")
	f.Add("retry 7 0:2 1:1")
	f.Add("retry x")
	f.Fuzz(func(t *testing.T, position string) {
		listed, manifests, err := parseRetry(position, &fleetv1.JobLedger{})
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("%q: %v", position, err)
			}
			return
		}
		again, same, err := parseRetry(retryPosition(listed, manifests), nil)
		if err != nil || again != listed || len(same) != len(manifests) {
			t.Errorf("%q: read %d %v, then %d %v, %v", position, listed, manifests, again, same, err)
		}
	})
}

// TestRetryOfForgedManifests: manifests lie where the project can write, and one that never ends mustn't take the memory of
// all.
func TestRetryOfForgedManifests(t *testing.T) {
	lead(t, 20, func(l *leader) {
		l.ended()
		name := filepath.Join(l.dir, "out", batch.ManifestName("0", 1))
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat(text, 2), 0o600); err != nil {
			t.Fatal(err)
		}
		l.retry()
		l.after(3 * time.Second)
		if f := l.ledger().GetFailure(); !strings.Contains(f, "more lines than the job has items") {
			t.Errorf("the job goes on: failure %q", f)
		}
	})
}

// TestRetryOfLinks: manifests don't say what signs a link, and several may differ in that alone.
func TestRetryOfLinks(t *testing.T) {
	lead(t, 0, func(l *leader) {
		l.manifest(`{"source":"https://h/x?sig=0"}
{"source":"https://h/x?sig=1"}
{"source":"https://h/x?sig=2"}
{"source":"https://h/y?sig=3"}`)
		failed := l.ended()
		l.retry()
		l.after(3 * time.Second)
		var again []string
		for _, item := range l.items()[4:] {
			again = append(again, item.Source)
		}
		if want := []string{"https://h/x?sig=0", "https://h/y?sig=3"}; !slices.Equal(again, want) || len(failed) != 2 || !l.ledger().GetListed() {
			t.Errorf("again are %q, want %q; failed were %d, failure %q", again, want, len(failed), l.ledger().GetFailure())
		}
	})
}

// TestListersArePerProject: inputs of one project that are slow don't keep another's from being listed.
func TestListersArePerProject(t *testing.T) {
	lead(t, 1, func(l *leader) {
		term := l.c.current()
		tokens := term.listsFor("slow")
		for range listersOfProject {
			tokens <- struct{}{}
			term.lists <- struct{}{}
		}
		l.after(3 * time.Second)
		if !l.ledger().GetListed() {
			t.Error("the job of another project isn't listed")
		}
	})
	lead(t, 1, func(l *leader) {
		l.relist(func() { l.failing("list", storage.ErrTemporary) })
		tokens := l.c.current().listsFor("default")
		for range listersOfProject {
			tokens <- struct{}{}
		}
		l.set(func() { l.faults = nil })
		l.after(3 * time.Second)
		if l.ledger().GetListed() {
			t.Error("a project has more inputs listed at once than it may")
		}
		<-tokens
		l.after(3 * time.Second)
		if !l.ledger().GetListed() {
			t.Error("an input isn't listed though another one of the project has ended")
		}
	})
}

func TestMostItems(t *testing.T) {
	l := &lister{from: mostItemsOfJob, namer: batch.NewNamer()}
	if err := l.add(batch.Item{Source: "file:///i/x", Size: -1}); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("one item too many: %v", err)
	}
	l.again = true // of those that are there already
	if err := l.add(batch.Item{Source: "file:///i/x", Size: -1, Name: "x_result.txt"}); err != nil {
		t.Error(err)
	}
}
