package api

import (
	"context"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

type storageKeyServer struct {
	*API
	fleetv1.UnimplementedStorageKeyServiceServer
}

// maxStorageKey is how many characters an access key, and its secret, have at most.
const maxStorageKey = 1024

// AboutStorageKey is what the secret of a project's storage key is sealed for.
func AboutStorageKey(project, scheme string) string { return "storage key " + project + "/" + scheme }

// storageKey checks one half of a key. It never shows it: it may be the secret.
func (v *violations) storageKey(field, s string) {
	switch {
	case s == "":
		v.add(field, "is missing")
	case len(s) > maxStorageKey:
		v.add(field, "has %d bytes, at most %d are allowed", len(s), maxStorageKey)
	case strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsSpace(r) || unicode.IsControl(r) }):
		v.add(field, "has a character that is no visible ASCII, such as a newline at its end")
	}
}

func (s *storageKeyServer) SetStorageKey(ctx context.Context, req *fleetv1.SetStorageKeyRequest) (*fleetv1.SetStorageKeyResponse, error) {
	var v violations
	v.oneOf("scheme", req.GetScheme(), storage.S3, storage.OBS)
	v.storageKey("access_key", req.GetAccessKey())
	v.storageKey("secret_key", req.GetSecretKey())
	if err := v.err(); err != nil {
		return nil, err
	}
	in, scheme := project(ctx, req.GetProject()), req.GetScheme()
	sealed, err := s.seal(req.GetSecretKey(), AboutStorageKey(in, scheme))
	if err != nil {
		return nil, err
	}
	err = s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		after := &fleetv1.StorageKey{Meta: newMeta(ctx, &fleetv1.Meta{Name: scheme, Project: in}, now), AccessKey: req.GetAccessKey(), Secret: sealed}
		needs, err := inProject(view, after.GetMeta())
		if err != nil {
			return nil, err
		}
		old := view.StorageKey(in, scheme)
		if old != nil {
			after.Meta = proto.CloneOf(old.GetMeta())
			after.Meta.Generation++
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "set the key of project "+in+" for "+scheme+" storage")
	return &fleetv1.SetStorageKeyResponse{Key: shownStorageKey(s.view().StorageKey(in, scheme))}, nil
}

func shownStorageKey(k *fleetv1.StorageKey) *fleetv1.StorageKey {
	k = proto.CloneOf(k)
	if k != nil {
		k.Secret = nil
	}
	return k
}

func (s *storageKeyServer) ListStorageKeys(ctx context.Context, req *fleetv1.ListStorageKeysRequest) (*fleetv1.ListStorageKeysResponse, error) {
	resp := &fleetv1.ListStorageKeysResponse{}
	for _, k := range s.view().StorageKeys(project(ctx, req.GetProject())) {
		resp.Keys = append(resp.Keys, shownStorageKey(k))
	}
	return resp, nil
}

func (s *storageKeyServer) DeleteStorageKey(ctx context.Context, req *fleetv1.DeleteStorageKeyRequest) (*fleetv1.DeleteStorageKeyResponse, error) {
	in := project(ctx, req.GetProject())
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		k := view.StorageKey(in, req.GetScheme())
		if k == nil {
			return nil, missing("scheme", "storage key for", req.GetScheme(), namesOf(view.StorageKeys(in)))
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(k.GetMeta().GetRevision(), state.StorageKeyKey(in, req.GetScheme()))}}, nil
	})
	if err != nil {
		return nil, err
	}
	s.note(ctx, "delete the key of project "+in+" for "+req.GetScheme()+" storage")
	return &fleetv1.DeleteStorageKeyResponse{}, nil
}
