package raftstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockDir takes the data directory for this process. The lock ends with the process, however it ends.
func lockDir(dataDir, raftDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(raftDir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data directory %s: %w", dataDir, err)
		}
		pid, readErr := os.ReadFile(f.Name())
		if readErr != nil || strings.TrimSpace(string(pid)) == "" {
			return nil, fmt.Errorf("data directory %s is in use by another process", dataDir)
		}
		return nil, fmt.Errorf("data directory %s is in use by process %s", dataDir, strings.TrimSpace(string(pid)))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock data directory: %w", err), f.Close())
	}
	return f, nil
}
