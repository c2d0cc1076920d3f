package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/drover-fleet/drover/agent/task"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

// spools is where tasks keep results until these are in the job's storage.
func (a *Agent) spools() string { return filepath.Join(a.cfg.DataDir, "tasks") }

// openStorage answers what a job may reach: this node's directories, and the object storage that the scheduler names.
func (a *Agent) openStorage(setup *fleetv1.TaskSetup) (_ task.Storage, err error) {
	cfg := storage.Config{Dirs: a.cfg.StorageDirs, Stores: map[string]storage.Store{}}
	for _, access := range setup.GetStorage() {
		s := storage.Store{
			Endpoint: access.GetEndpoint(), Region: access.GetRegion(), PathStyle: access.GetPathStyle(), Insecure: access.GetInsecure(),
			AccessKey: access.GetAccessKey(), SecretKey: access.GetSecretKey(),
		}
		if access.GetCa() != "" {
			if s.CAFile, err = writeCA(a.spools(), access.GetCa()); err != nil {
				return nil, err
			}
			defer func(path string) { err = errors.Join(err, os.Remove(path)) }(s.CAFile)
		}
		cfg.Stores[access.GetScheme()] = s
	}
	return storage.Open(cfg)
}

// writeCA writes certificates for storage.Open, which reads them from a file.
func writeCA(dir, pem string) (string, error) {
	f, err := os.CreateTemp(dir, "ca-")
	if err != nil {
		return "", fmt.Errorf("the object storage's certificates: %w", err)
	}
	_, err = f.WriteString(pem)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("the object storage's certificates: %w", err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}
