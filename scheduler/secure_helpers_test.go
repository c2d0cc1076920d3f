package scheduler_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// believing shows a keeper's certificate to schedulers of any CA in the file.
func believing(t *testing.T, k *identity.Keeper, caFile string) credentials.TransportCredentials {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", caFile)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1", GetClientCertificate: k.ClientTLS().GetClientCertificate,
	})
}

// forwardedAs makes calls look as if they were passed on for an administrator.
func forwardedAs(t *testing.T, name string) func(context.Context) context.Context {
	return func(ctx context.Context) context.Context {
		t.Helper()
		out, err := auth.Forward(auth.NewContext(ctx, auth.Caller{Name: name, Role: fleetv1.RoleAdmin, Project: fleetv1.Default, Account: fleetv1.Default}))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}
