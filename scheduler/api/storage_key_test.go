package api

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestStorageKeys(t *testing.T) {
	w := newWorld(t)
	keys := fleetv1.NewStorageKeyServiceClient(w.conn)
	set := func(edit func(*fleetv1.SetStorageKeyRequest)) (*fleetv1.StorageKey, error) {
		req := &fleetv1.SetStorageKeyRequest{Scheme: "s3", AccessKey: "AK", SecretKey: "hush-hush"}
		if edit != nil {
			edit(req)
		}
		resp, err := keys.SetStorageKey(t.Context(), req)
		return resp.GetKey(), err
	}
	before := w.store.View().Index()
	for name, x := range map[string]struct {
		edit  func(*fleetv1.SetStorageKeyRequest)
		code  codes.Code
		field string
		words string
	}{
		"no scheme":     {func(r *fleetv1.SetStorageKeyRequest) { r.Scheme = "" }, codes.InvalidArgument, "scheme", "is missing"},
		"scheme":        {func(r *fleetv1.SetStorageKeyRequest) { r.Scheme = "file" }, codes.InvalidArgument, "scheme", `"file" is not one of "s3", "obs"`},
		"no access key": {func(r *fleetv1.SetStorageKeyRequest) { r.AccessKey = "" }, codes.InvalidArgument, "access_key", "is missing"},
		"no secret":     {func(r *fleetv1.SetStorageKeyRequest) { r.SecretKey = "" }, codes.InvalidArgument, "secret_key", "is missing"},
		"a line's end":  {func(r *fleetv1.SetStorageKeyRequest) { r.SecretKey = "hush-hush\n" }, codes.InvalidArgument, "secret_key", "newline"},
		"too long":      {func(r *fleetv1.SetStorageKeyRequest) { r.SecretKey = strings.Repeat("hush", 300) }, codes.InvalidArgument, "secret_key", "at most 1024"},
		"project":       {func(r *fleetv1.SetStorageKeyRequest) { r.Project = "nowhere" }, codes.NotFound, "", "no project"},
	} {
		_, err := set(x.edit)
		w.refused(name, err, x.code, x.field, x.words, before)
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the secret is shown: %v", name, err)
		}
	}
	made, err := set(nil)
	if err != nil || made.GetMeta().GetName() != "s3" || made.GetMeta().GetAccount() != "default" || made.GetAccessKey() != "AK" || made.GetSecret() != nil {
		t.Errorf("made %v, %v", made, err)
	}
	stored := w.store.View().StorageKey("default", "s3")
	if sealed := stored.GetSecret(); string(sealed.GetCiphertext()) != "hush-hush" || sealed.GetKeyId() != AboutStorageKey("default", "s3") {
		t.Errorf("sealed as %v", sealed)
	}
	again, err := set(func(r *fleetv1.SetStorageKeyRequest) { r.AccessKey = "AK2" })
	if m := again.GetMeta(); err != nil || m.GetId() != made.GetMeta().GetId() || m.GetGeneration() != 2 || again.GetAccessKey() != "AK2" {
		t.Errorf("replaced: %v, %v", again, err)
	}
	list, err := keys.ListStorageKeys(t.Context(), &fleetv1.ListStorageKeysRequest{})
	if err != nil || len(list.GetKeys()) != 1 || list.GetKeys()[0].GetSecret() != nil {
		t.Errorf("list: %v, %v", list, err)
	}
	before = w.store.View().Index()
	_, err = keys.DeleteStorageKey(t.Context(), &fleetv1.DeleteStorageKeyRequest{Scheme: "obs"})
	w.refused("delete another", err, codes.NotFound, "scheme", `no storage key for "obs"; there are: s3`, before)
	if _, err := keys.DeleteStorageKey(t.Context(), &fleetv1.DeleteStorageKeyRequest{Scheme: "s3"}); err != nil || w.store.View().StorageKey("default", "s3") != nil {
		t.Errorf("delete: %v", err)
	}
}
