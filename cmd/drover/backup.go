package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/backup"
)

// restorePiece is how much of a backup is sent in one message.
const restorePiece = 256 << 10

func (a *app) clusterBackup() *cobra.Command {
	var check, force bool
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Write the cluster's state to a file, or check such a file",
		Long: "Write the cluster's state, as of now, to a file: everything but events. The file appears whole or not at all, readable\n" +
			"by its owner alone. It holds no encryption keys: keep those that it names apart from it. --check verifies a file\n" +
			"without a scheduler.",
		Example: "  drover cluster backup drover-$(date +%F).backup\n  drover cluster backup --check drover-2026-11-28.backup",
		Args:    exactly("FILE"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return nil, fileArgument(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if check {
				header, err := checkBackup(args[0])
				if err != nil {
					return err
				}
				return a.print(header, func() error { return a.drawBackup(args[0], header) })
			}
			header, err := a.saveBackup(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			return a.print(header, func() error { return a.drawBackup(args[0], header) })
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "only verify the file")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	return a.printing(a.online(cmd))
}

func fileArgument(args []string) cobra.ShellCompDirective {
	if len(args) > 0 {
		return cobra.ShellCompDirectiveNoFileComp
	}
	return cobra.ShellCompDirectiveDefault
}

// checkBackup reads all of a file.
func checkBackup(path string) (*fleetv1.BackupHeader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, header, err := backup.Load(f)
	return header, about(path, err)
}

// saveBackup has the leader write a backup into a file of this name, which is there whole or not at all.
func (a *app) saveBackup(ctx context.Context, path string, force bool) (header *fleetv1.BackupHeader, err error) {
	if _, err := os.Lstat(path); err == nil && !force {
		return nil, fmt.Errorf("%s exists: name another file, or replace it with --force", path)
	} else if err != nil && !isNotExist(err) {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(f.Close(), os.ErrClosed), os.Remove(f.Name()))
		}
	}()
	if err := a.receiveBackup(ctx, f); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if header, err = checkBackup(f.Name()); err != nil {
		return nil, fmt.Errorf("what was received is not whole, and is dropped: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return header, errors.Join(dir.Sync(), dir.Close())
}

func ignoreGone(err, gone error) error {
	if errors.Is(err, gone) {
		return nil
	}
	return err
}

func (a *app) receiveBackup(ctx context.Context, w io.Writer) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	ctx, reach := a.track(ctx)
	stream, err := cl.Backups.Backup(ctx, &fleetv1.BackupRequest{})
	if err != nil {
		return reach(err)
	}
	p := a.bytesProgress("received")
	defer p.end()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return reach(err)
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return err
		}
		p.add(len(m.GetData()))
	}
}

func (a *app) drawBackup(path string, h *fleetv1.BackupHeader) error {
	var p pairs
	p.addf("File", "%s, whole", path)
	p.addf("Cluster", "%s", h.GetClusterId())
	p.addf("Taken", "%s", a.when(h.GetTime()))
	p.addf("Index", "%d (term %d)", h.GetIndex(), h.GetTerm())
	p.addf("Restore epoch", "%d", h.GetRestoreEpoch())
	p.addf("Version", "%s", h.GetVersion())
	for i, id := range h.GetEncryptionKeyIds() {
		p.addf(map[bool]string{true: "Needs keys"}[i == 0], "%s", id)
	}
	return a.drawPairs(p)
}

// bytesProgress shows on a terminal how much has been moved.
type bytesProgress struct {
	a     *app
	verb  string
	total int64
	shown time.Time
}

func (a *app) bytesProgress(verb string) *bytesProgress { return &bytesProgress{a: a, verb: verb} }

func (p *bytesProgress) add(n int) {
	p.total += int64(n)
	if p.a.terminal && time.Since(p.shown) > 100*time.Millisecond {
		p.shown = time.Now()
		fmt.Fprintf(p.a.err, "\r\x1b[K%s %s", p.verb, bytesText(p.total))
	}
}

func (p *bytesProgress) end() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.a.err, "\r\x1b[K")
	}
}
