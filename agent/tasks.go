package agent

import (
	"context"
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

func (a *Agent) newTasks() *task.Manager {
	return task.New(task.Config{
		Exchange: func(ctx context.Context, req *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error) {
			return a.session.ExchangeTask(ctx, req)
		},
		Open: a.openStorage, Dir: a.spools(), Busy: a.deps.Busy,
	})
}

// openStorage answers what a job of a project may reach: this node's directories, and the object storage that the
// scheduler names.
func (a *Agent) openStorage(project string, setup *fleetv1.TaskSetup) (_ task.Storage, err error) {
	var authorities []string
	defer func() {
		for _, path := range authorities { // they have been read
			err = errors.Join(err, os.Remove(path))
		}
	}()
	cfg := storage.Config{Dirs: storage.ProjectDirs(a.cfg.StorageDirs, project), Stores: map[string]storage.Store{}}
	for _, access := range setup.GetStorage() {
		s := storage.Store{
			Endpoint: access.GetEndpoint(), Region: access.GetRegion(), PathStyle: access.GetPathStyle(), Insecure: access.GetInsecure(),
			AccessKey: access.GetAccessKey(), SecretKey: access.GetSecretKey(),
		}
		if access.GetCa() != "" {
			if s.CAFile, err = writeCA(a.spools(), access.GetCa()); err != nil {
				return nil, err
			}
			authorities = append(authorities, s.CAFile)
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
