package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxSource is how long the URL of an input may be, in bytes.
const maxSource = 8192

// Source is a line of a manifest of inputs.
type Source struct {
	Line int
	// URL is of one file; empty with an error. That of a signed link is a secret.
	URL string
	// Err is what is wrong with the line. It doesn't hold the query of a link.
	Err error
}

// Sources reads a manifest of inputs: JSON Lines with the URL of a file in "source"; other fields say nothing to it, and
// blank lines are passed over.
type Sources struct{ lines *lineReader }

// NewSources reads a manifest from r.
func NewSources(r io.Reader) *Sources { return &Sources{newLineReader(r, maxLine)} }

// Next returns the next line. io.EOF ends the manifest; another error is that of the reader. A line that names no input
// has its reason in Err, and the next one follows.
func (s *Sources) Next() (Source, error) {
	line, err := s.lines.next()
	if err != nil && !errors.Is(err, errLongLine) {
		return Source{}, err
	}
	out := Source{Line: s.lines.number}
	if err != nil {
		err = fmt.Errorf("it is longer than %d bytes", maxLine)
	} else {
		out.URL, err = parseSource(line)
	}
	if err != nil {
		out.URL, out.Err = "", fmt.Errorf("line %d of the manifest: %w", out.Line, err)
	}
	return out, nil
}

func parseSource(line []byte) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil || fields == nil {
		return "", errors.New(`it is no JSON object: write {"source": "s3://bucket/key"}`)
	}
	raw, ok := fields["source"]
	if !ok {
		return "", errors.New(`it has no "source": write {"source": "s3://bucket/key"}`)
	}
	var source *string
	if err := json.Unmarshal(raw, &source); err != nil || source == nil {
		return "", errors.New(`"source" is no string: give the URL of one file`)
	}
	return *source, checkSource(*source)
}

// checkSource checks what can be told without any storage.
func checkSource(source string) error {
	shown, _, _ := strings.Cut(source, "?")
	scheme, rest, ok := strings.Cut(source, "://")
	if scheme == "https" {
		rest, _, _ = strings.Cut(rest, "?")
	}
	switch {
	case len(source) > maxSource:
		return fmt.Errorf("source has %d bytes: at most %d are allowed", len(source), maxSource)
	case !ok || scheme != "s3" && scheme != "obs" && scheme != "file" && scheme != "https":
		return fmt.Errorf("source %s has an unknown scheme: file, s3, obs and https are known", quote(shown))
	case strings.HasSuffix(rest, "/") || !strings.Contains(rest, "/"):
		return fmt.Errorf("source %s names a folder: list its files, or give the folder as the job's input", quote(shown))
	}
	return nil
}

// ManifestLine is a line of a manifest of results: the fields and their order are what clients read.
type ManifestLine struct {
	Source string `json:"source"`
	// Result is Successful or Failed.
	Result string `json:"result"`
	// Location is the URL of the result, with Successful alone.
	Location string `json:"inference-loc,omitempty"`
	// Message is why there is none, with Failed alone.
	Message string `json:"error_message,omitempty"`
}

// ManifestLine is what a manifest says of an item whose result is stored at location.
func (o *Outcome) ManifestLine(location string) ManifestLine {
	l := ManifestLine{Source: o.Source, Result: o.Result, Message: o.Message}
	if o.Result == Successful {
		l.Location = location
	}
	return l
}

// Append writes the line, with its end, to dst.
func (l ManifestLine) Append(dst []byte) []byte { return append(appendJSON(dst, l), '\n') }

func (l ManifestLine) check() error {
	switch {
	case l.Source == "":
		return errors.New("it has no source")
	case l.Result == Successful && (l.Location == "" || l.Message != ""):
		return errors.New("SUCCESSFUL needs an inference-loc, and no error_message")
	case l.Result == Failed && (l.Message == "" || l.Location != ""):
		return errors.New("FAILED needs an error_message, and no inference-loc")
	case l.Result != Successful && l.Result != Failed:
		return fmt.Errorf("result is %q: want SUCCESSFUL or FAILED", l.Result)
	}
	return nil
}

// ManifestReader reads a manifest of results.
type ManifestReader struct{ lines *lineReader }

// NewManifestReader reads a manifest from r.
func NewManifestReader(r io.Reader) *ManifestReader {
	return &ManifestReader{newLineReader(r, maxLine)}
}

// Next returns the next line. io.EOF ends the manifest; a line that is no line of a manifest is an error that names it.
func (m *ManifestReader) Next() (ManifestLine, error) {
	line, err := m.lines.next()
	if errors.Is(err, io.EOF) {
		return ManifestLine{}, io.EOF
	}
	var l ManifestLine
	if err == nil {
		err = decode(line, &l)
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return ManifestLine{}, fmt.Errorf("line %d of the manifest: %w", m.lines.number, err)
	}
	return l, nil
}

// ManifestName is the file name of a task's manifest: number 0 is the first one.
func ManifestName(task string, number int32) string {
	if number == 0 {
		return ResultDirectory(task) + ".manifest"
	}
	return fmt.Sprintf("%s_%d.manifest", ResultDirectory(task), number)
}

// IsManifest says whether a file name is that of a task's manifest.
func IsManifest(name string) bool {
	return strings.HasPrefix(name, ResultDirectory("")) && strings.HasSuffix(name, ".manifest")
}

// OwnFolder is the folder beside an output that holds what jobs work by, each in a folder of its own.
const OwnFolder = ".drover/"

// packPrefix is how the names of packs begin, in the folder of a job.
const packPrefix = "pack-"

// PackName is the name of the pack of the chunk that begins with an item.
func PackName(from int64, attempt string) string {
	return fmt.Sprintf("%s%d-%s", packPrefix, from, attempt)
}

// IsPack says whether a name in the folder of a job is that of a pack.
func IsPack(name string) bool {
	return strings.HasPrefix(name, packPrefix) && !strings.Contains(name, "/")
}

// ResultDirectory is the name of the directory of a task's results.
func ResultDirectory(task string) string { return "infer-result-" + task }
