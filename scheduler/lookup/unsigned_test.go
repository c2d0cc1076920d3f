package lookup

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/signer"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// plain keeps secrets as they are.
type plain struct{}

func (plain) Seal(secret []byte, _ string) (*fleetv1.SealedKey, error) {
	return &fleetv1.SealedKey{Ciphertext: secret}, nil
}

func (plain) Open(sealed *fleetv1.SealedKey, _ string) ([]byte, error) {
	if sealed == nil {
		return nil, errors.New("there is nothing to open")
	}
	return sealed.GetCiphertext(), nil
}

// TestUnsignedPayload: the reference client leaves the body out of its signature unless its type is JSON. That is let in where
// the configuration says so, and has a code of its own elsewhere.
func TestUnsignedPayload(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(instance("i1", "s1", 31000))
		f.put(&fleetv1.Key{Meta: meta("AK", "AK"), Secret: &fleetv1.SealedKey{Ciphertext: []byte("sk")}, Scopes: []*fleetv1.Scope{{Project: fleetv1.Default, Role: fleetv1.RoleLookup}}})
		synctest.Wait()
		for _, c := range []struct {
			name    string
			allowed bool
			secret  string
			content string
			status  int
			says    string
		}{
			{"allowed", true, "sk", "text/csv", 200, "31000"},
			{"allowed, wrong secret", true, "ks", "text/csv", 401, "DROVER.0401"},
			{"not allowed", false, "sk", "text/csv", 401, "DROVER.4011"},
			{"not allowed, wrong secret", false, "ks", "text/csv", 401, "DROVER.4011"},
			{"signed where it need not be", true, "sk", "application/json", 200, "31000"},
			{"signed", false, "sk", "application/json", 200, "31000"},
		} {
			who := auth.NewAuthenticator(auth.AuthenticatorConfig{View: f.store.View, Sealer: plain{}, AllowUnsigned: c.allowed, Now: time.Now})
			f.table.cfg.Authenticate = func(r *http.Request) (auth.Caller, error) { return who.Request(r, nil) }
			if w := f.serve(reference(t, c.content, c.secret)); w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
			}
		}
	})
}

// reference is a look-up that the reference client has signed.
func reference(t *testing.T, content, secret string) *http.Request {
	t.Helper()
	built := request.NewHttpRequestBuilder().WithMethod(http.MethodGet).WithEndpoint("http://example.com").WithPath("/v1/default/services/iris/predict/endpoints").
		AddQueryParam("type", reflect.ValueOf("host_endpoints")).AddHeaderParam("Host", "example.com").AddHeaderParam("Content-Type", content).Build()
	headers, err := signer.Sign(built, "AK", secret)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, irisPath, nil)
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	for k, v := range built.GetHeaderParams() {
		r.Header.Set(k, v)
	}
	return r
}
