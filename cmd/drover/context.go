package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// savedContext is what `drover dev` leaves so that the next command needs no flags. Paths are absolute.
type savedContext struct {
	Addr        string `yaml:"addr"`
	HTTPAddr    string `yaml:"http_addr,omitempty"`
	TokenFile   string `yaml:"token_file"`
	CAFile      string `yaml:"ca_file,omitempty"`
	AgentSocket string `yaml:"agent_socket,omitempty"`
}

// contextPath is the user's context file, under XDG_CONFIG_HOME or ~/.config.
func (a *app) contextPath() string {
	base := a.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(base) {
		home := a.getenv("HOME")
		if home == "" {
			return ""
		}
		base = filepath.Join(home, ".config")
	}
	return filepath.Join(base, "drover", "context.yaml")
}

// loadContext answers an empty context when there is no file.
func (a *app) loadContext() (savedContext, error) {
	var c savedContext
	path := a.contextPath()
	if path == "" {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if isNotExist(err) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the context file: %w", err)
	}
	if err := decodeStrict(data, &c); err != nil {
		return c, fmt.Errorf("context file %s: %w; remove it, or start `drover dev` again", path, err)
	}
	return c, nil
}

// saveContext writes the file for its owner alone, whole or not at all.
func saveContext(path string, c savedContext) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the context file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the context file: %w", err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("write the context file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write the context file: %w", err)
	}
	return nil
}

// decodeStrict reads one YAML document and refuses fields that into doesn't have.
func decodeStrict(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return errors.New(oneLine(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n")))
	}
	return nil
}
