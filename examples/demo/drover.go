package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// drover runs one command, shown before its output.
func (d *demo) drover(ctx context.Context, args ...string) error {
	d.printf("\n$ drover %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.root, d.env, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("drover %s: %w; the log: %s", args[0], err, d.keepLog())
	}
	return nil
}

// answer runs one command and answers what it prints.
func (d *demo) answer(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Dir, cmd.Env, cmd.Stderr = d.root, d.env, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("drover %s: %w", args[0], err)
	}
	return out, nil
}

// devProcess is a running `drover dev`.
type devProcess struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, with err
	err  error
}

// devContext is what `drover dev` leaves for other commands.
type devContext struct {
	Addr        string `yaml:"addr"`
	HTTPAddr    string `yaml:"http_addr"`
	TokenFile   string `yaml:"token_file"`
	AgentSocket string `yaml:"agent_socket"`
}

const startLimit = 2 * time.Minute

func (d *demo) devDir() string { return filepath.Join(d.dir, "dev") }

// startDev starts `drover dev` and waits until it says that it is ready.
func (d *demo) startDev(ctx context.Context) error {
	args := []string{"dev", "--data-dir", d.devDir(), "--devices", "fake:2xH100-80GB", "--free-ports", "--cleanup"}
	d.printf("\n$ drover %s\n", strings.Join(args, " "))
	cmd := exec.Command(d.binary, args...)
	cmd.Dir, cmd.Env, cmd.Stderr = d.root, d.env, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which then stops it
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &devProcess{cmd: cmd, done: make(chan struct{})}
	d.dev = p
	ready := make(chan struct{})
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.printf("%s\n", lines.Text())
			if lines.Text() == "ready" {
				close(ready)
			}
		}
		p.err = cmd.Wait()
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case <-ready:
	case <-p.done:
		return fmt.Errorf("drover dev did not start: %w; its log: %s", p.err, d.keepLog())
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("drover dev was not ready after %s; its log: %s", startLimit, d.keepLog())
	}
	data, err := os.ReadFile(filepath.Join(d.devDir(), "context.yaml"))
	if err != nil {
		return err
	}
	return yaml.Unmarshal(data, &d.context)
}

// stopDev ends `drover dev`, which removes what it made; what one that died has left is removed by `drover dev stop`.
func (d *demo) stopDev(ctx context.Context) error {
	d.printf("\nCtrl-C for drover dev\n")
	if err := d.dev.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("interrupt drover dev: %w", err)
	}
	select {
	case <-d.dev.done:
	case <-ctx.Done():
		return fmt.Errorf("drover dev, process %d, does not end: %w", d.dev.cmd.Process.Pid, ctx.Err())
	}
	if _, err := os.Stat(d.devDir()); err == nil {
		return d.drover(ctx, "dev", "stop", "--data-dir", d.devDir())
	}
	return d.dev.err
}

// keepLog saves the log of `drover dev` from the removal and answers where it is.
func (d *demo) keepLog() string {
	data, err := os.ReadFile(filepath.Join(d.devDir(), "dev.log"))
	if err != nil {
		return "none was written"
	}
	f, err := os.CreateTemp("", "drover-demo-*.log")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err.Error()
	}
	return f.Name()
}

// copyManifests makes manifests that name the registry's real address.
func (d *demo) copyManifests() (string, error) {
	dir := filepath.Join(d.dir, "manifests")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(d.root, "examples", "iris", "*.yaml"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		text := strings.ReplaceAll(string(data), registryAddr, d.registry.Addr())
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}
