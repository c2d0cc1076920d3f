package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Object is a message of the API with its meta.
type Object interface {
	proto.Message
	GetMeta() *fleetv1.Meta
}

// Document is one object read from a file.
type Document struct {
	File string
	Line int
	// Kind is one of fleetv1.KindFlavor, KindPool, KindQuota, KindModel, KindService, KindJob.
	Kind   string
	Object Object
}

// Where is "file:line", for messages about the document.
func (d Document) Where() string { return fmt.Sprintf("%s:%d", d.File, d.Line) }

// Name is how people and scripts name the object: "service/iris", "model/iris@1.0.0".
func (d Document) Name() string {
	name := d.Kind + "/" + d.Object.GetMeta().GetName()
	if m, ok := d.Object.(*fleetv1.Model); ok && m.GetSpec().GetVersion() != "" {
		name += "@" + m.GetSpec().GetVersion()
	}
	return name
}

// Error is a complaint about one place of a file.
type Error struct {
	File string
	Line int
	Path string // of the field; empty when it is about the document
	Msg  string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Path, e.Msg)
}

const maxFileBytes = 4 << 20

// kindNames in the order in which objects are made: each may refer to those before it.
var kindNames = []string{"Flavor", "Pool", "Quota", "Model", "Service", "Job"}

func newObject(kind string) Object {
	switch kind {
	case "Flavor":
		return &fleetv1.Flavor{}
	case "Pool":
		return &fleetv1.Pool{}
	case "Quota":
		return &fleetv1.Quota{}
	case "Model":
		return &fleetv1.Model{}
	case "Service":
		return &fleetv1.Service{}
	case "Job":
		return &fleetv1.Job{}
	}
	return nil
}

// Load reads files, directories (their .yaml and .yml files, in order of name, without subdirectories)
// and "-", standard input. Documents come in the order in which they must be made: flavors, pools,
// quotas, models, services, jobs. The same object twice is an error.
func Load(paths []string, stdin io.Reader) ([]Document, error) {
	var docs []Document
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := read(file, stdin)
			if err != nil {
				return nil, err
			}
			name := file
			if file == "-" {
				name = "stdin"
			}
			parsed, err := Parse(name, data)
			if err != nil {
				return nil, err
			}
			docs = append(docs, parsed...)
		}
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("no object found in %s", strings.Join(paths, ", "))
	}
	slices.SortStableFunc(docs, func(a, b Document) int { return rank(a.Kind) - rank(b.Kind) })
	seen := make(map[string]Document, len(docs))
	for _, d := range docs {
		key := d.Object.GetMeta().GetProject() + "/" + d.Name()
		if first, ok := seen[key]; ok {
			return nil, &Error{d.File, d.Line, "", fmt.Sprintf("%s is declared twice, first at %s", d.Name(), first.Where())}
		}
		seen[key] = d
	}
	return docs, nil
}

func rank(kind string) int {
	return slices.IndexFunc(kindNames, func(k string) bool { return strings.EqualFold(k, kind) })
}

func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifests: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read the manifests: %w", err)
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("directory %s holds no .yaml file", path)
	}
	return files, nil
}

func read(file string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read the manifests: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the manifest %s: %w", file, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("manifest %s is larger than %d MiB", file, maxFileBytes>>20)
	}
	return data, nil
}

// Parse reads every document of one file; file is only its name in messages.
func Parse(file string, data []byte) ([]Document, error) {
	var docs []Document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s", file, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", "; "))
		}
		if len(node.Content) == 0 || (node.Content[0].Kind == yaml.ScalarNode && node.Content[0].Tag == "!!null") {
			continue
		}
		doc, err := document(file, node.Content[0])
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
}

func document(file string, root *yaml.Node) (Document, error) {
	d := &decoder{file: file, budget: maxNodes}
	entries, err := d.entries(root, "")
	if err != nil {
		return Document{}, err
	}
	at := slices.IndexFunc(entries, func(e entry) bool { return e.key.Value == "kind" })
	if at < 0 {
		return Document{}, d.errorf(root, "", "kind is missing: want one of %s", strings.Join(kindNames, ", "))
	}
	kind := entries[at].value.Value
	obj := newObject(kind)
	if obj == nil {
		return Document{}, d.errorf(entries[at].value, "kind", "%s", unknownKind(kind))
	}
	m := obj.ProtoReflect()
	for _, e := range entries {
		switch key := e.key.Value; key {
		case "kind":
		case "meta", "spec":
			fd := m.Descriptor().Fields().ByName(protoreflect.Name(key))
			if err := d.message(e.value, key, m.Mutable(fd).Message()); err != nil {
				return Document{}, err
			}
		case "status", "desired", "nodes", "usage":
			return Document{}, d.errorf(e.key, key, "is written by Drover, not by manifests: leave it out")
		default:
			return Document{}, d.errorf(e.key, key, "unknown field%s", didYouMean(key, []string{"kind", "meta", "spec"}))
		}
	}
	if obj.GetMeta().GetName() == "" {
		return Document{}, d.errorf(root, "meta.name", "is missing")
	}
	return Document{File: file, Line: root.Line, Kind: strings.ToLower(kind), Object: obj}, nil
}

func unknownKind(kind string) string {
	hint := didYouMean(kind, kindNames)
	if hint == "" {
		hint = ": want one of " + strings.Join(kindNames, ", ")
	}
	return fmt.Sprintf("unknown kind %q%s", kind, hint)
}
