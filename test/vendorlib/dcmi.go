package vendorlib

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// DCMI is the fake of Ascend's library, in a folder of its own.
type DCMI struct{ Path string }

// NewDCMI builds the fake. The source says which flags there are, and which instructions Tell takes.
func NewDCMI(t testing.TB, flags ...string) *DCMI {
	t.Helper()
	return &DCMI{Path: Build(t, "dcmi", flags...)}
}

// Tell replaces the instructions that the library follows from its next call on.
func (l *DCMI) Tell(t testing.TB, instructions ...string) {
	t.Helper()
	control := l.Path + ".ctl"
	// The library must never read half of them.
	if err := os.WriteFile(control+".new", []byte(strings.Join(instructions, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(control+".new", control); err != nil {
		t.Fatal(err)
	}
}

// Without answers a copy of the library in which the functions can't be looked up.
func (l *DCMI) Without(t testing.TB, functions ...string) *DCMI {
	t.Helper()
	content, err := os.ReadFile(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range functions {
		name := append([]byte{0}, f+"\x00"...)
		if !bytes.Contains(content, name) {
			t.Fatalf("the fake library has no %s", f)
		}
		hidden := bytes.Clone(name)
		hidden[len(hidden)-2] = '#'
		content = bytes.ReplaceAll(content, name, hidden)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(l.Path))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return &DCMI{Path: path}
}
