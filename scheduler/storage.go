package scheduler

import (
	"fmt"
	"os"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/api"
	"github.com/drover-fleet/drover/scheduler/jobs"
	"github.com/drover-fleet/drover/storage"
)

// Stores are object storages by the scheme of their URLs.
type Stores struct {
	S3  Store `yaml:"s3"`
	OBS Store `yaml:"obs"`
}

// Store is an S3-compatible object storage; without an endpoint there is none.
type Store struct {
	// Endpoint is "host" or "host:port".
	Endpoint string `yaml:"endpoint"`
	// Region is us-east-1 when it is empty.
	Region string `yaml:"region"`
	// PathStyle has the bucket stand in the path and not in the host name.
	PathStyle bool `yaml:"path_style"`
	// CAFile holds the certificates, PEM, that the endpoint may show besides the system's.
	CAFile string `yaml:"ca_file"`
	// Insecure is plain HTTP.
	Insecure bool `yaml:"insecure"`
}

func (c Config) validateStorage(bad func(field, format string, args ...any)) {
	if _, err := storage.Open(storage.Config{Dirs: c.StorageDirs}); err != nil {
		bad("storage_dirs", "%w", err)
	}
	if err := storage.CheckDirs(c.StorageDirs); err != nil {
		bad("storage_dirs", "%w", err)
	}
	for scheme, s := range c.stores() {
		if _, err := storage.Open(storage.Config{Stores: map[string]storage.Store{scheme: s}}); err != nil {
			bad("stores."+scheme, "%w", err)
		}
	}
	for scheme, s := range c.Stores.byScheme() {
		if s.Endpoint == "" && s != (Store{}) {
			bad("stores."+scheme+".endpoint", "is missing: it is the host, or host:port, of the storage")
		}
	}
}

func (s Stores) byScheme() map[string]Store {
	return map[string]Store{storage.S3: s.S3, storage.OBS: s.OBS}
}

// stores are those that are configured, without anybody's keys.
func (c Config) stores() map[string]storage.Store {
	all := map[string]storage.Store{}
	for scheme, s := range c.Stores.byScheme() {
		if s.Endpoint != "" {
			all[scheme] = storage.Store{Endpoint: s.Endpoint, Region: s.Region, PathStyle: s.PathStyle, CAFile: s.CAFile, Insecure: s.Insecure}
		}
	}
	return all
}

// projectStores are the stores with the project's keys. A store for which it has none is used without.
func (s *Server) projectStores(project string) (map[string]storage.Store, error) {
	view, all := s.state.View(), s.cfg.stores()
	for scheme, store := range all {
		key := view.StorageKey(project, scheme)
		if key == nil {
			continue
		}
		secret, err := s.sealer().Open(key.GetSecret(), api.AboutStorageKey(project, scheme))
		if err != nil {
			return nil, &api.Error{Code: codes.FailedPrecondition, Msg: fmt.Sprintf("the key of project %q for %s storage can't be decrypted: %v", project, scheme, err)}
		}
		store.AccessKey, store.SecretKey = key.GetAccessKey(), string(secret)
		all[scheme] = store
	}
	return all, nil
}

// storageFor opens what the jobs of a project may use, with its keys as they are now. The caller closes it.
func (s *Server) storageFor(project string) (*storage.Storage, error) {
	stores, err := s.projectStores(project)
	if err != nil {
		return nil, err
	}
	return storage.Open(storage.Config{Dirs: storage.ProjectDirs(s.cfg.StorageDirs, project), Stores: stores})
}

// storageAccess is what agents need to use what the jobs of a project may use: it holds secrets.
func (s *Server) storageAccess(project string) ([]*fleetv1.StorageAccess, error) {
	stores, err := s.projectStores(project)
	if err != nil {
		return nil, err
	}
	var all []*fleetv1.StorageAccess
	for _, scheme := range []string{storage.S3, storage.OBS} {
		store, ok := stores[scheme]
		if !ok {
			continue
		}
		a := &fleetv1.StorageAccess{Scheme: scheme, Endpoint: store.Endpoint, Region: store.Region, PathStyle: store.PathStyle,
			AccessKey: store.AccessKey, SecretKey: store.SecretKey, Insecure: store.Insecure}
		if store.CAFile != "" {
			ca, err := os.ReadFile(store.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read stores.%s.ca_file: %w", scheme, err)
			}
			a.Ca = string(ca)
		}
		all = append(all, a)
	}
	return all, nil
}

// newJobs is the leader's side of jobs, over their projects' storage.
func (s *Server) newJobs() *jobs.Coordinator {
	return jobs.New(jobs.Config{
		State: s.state, Proposer: s.proposals, Storage: func(project string) (jobs.Storage, error) { return s.storageFor(project) }, Access: s.storageAccess,
		Leader: s.leaderElsewhere, Now: s.clock.Now, Logger: s.log,
	})
}
