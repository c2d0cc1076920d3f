package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	reasonRow    = regexp.MustCompile("(?m)^\\| ((?:`[A-Za-z]+`(?:, )?)+) \\|")
	quotedReason = regexp.MustCompile("`([A-Za-z]+)`")
	// madeReason is where the code names a reason beside its type, or in the field of that name.
	madeReason = regexp.MustCompile(`(?:fleetv1\.Event(?:Normal|Warning|Abnormal), (?:Reason: )?|\bReason: |reason, message = |complain\(|serviceEvent\(\w+, )"([A-Z]\w+)"`)
	anyWord    = regexp.MustCompile(`"([A-Z]\w+)"`)
)

// reasonsOf returns the reasons in the rows of docs/events.md.
func reasonsOf(page string) []string {
	var out []string
	for _, row := range reasonRow.FindAllStringSubmatch(page, -1) {
		for _, m := range quotedReason.FindAllStringSubmatch(row[1], -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// TestEventsPage compares docs/events.md with the reasons that the code gives.
func TestEventsPage(t *testing.T) {
	page := reasonsOf(pages(t)["docs/events.md"])
	var words, made []string
	for _, dir := range []string{"scheduler", "agent"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			code, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range anyWord.FindAllSubmatch(code, -1) {
				words = append(words, string(m[1]))
			}
			for _, m := range madeReason.FindAllSubmatch(code, -1) {
				made = append(made, string(m[1]))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(made) < 20 {
		t.Fatalf("found only %q in the code", made)
	}
	states := []string{"Stopping", "Stopped", "Deleting"} // reasons that are named after the state
	for _, r := range page {
		if !slices.Contains(words, r) && !slices.Contains(states, r) {
			t.Errorf("docs/events.md has %s, which the code never says", r)
		}
	}
	for _, r := range made {
		if !slices.Contains(page, r) {
			t.Errorf("docs/events.md has no row for %s", r)
		}
	}
}
