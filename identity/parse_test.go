package identity

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.key")
	f := KeyFile(path)
	if _, err := f.Read(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	must(t, f.Make())
	first, err := f.Read()
	must(t, err)
	must(t, f.Make()) // keeps it
	sealed, err := first.Seal([]byte("secret"), "x")
	must(t, err)

	old, err := os.ReadFile(path)
	must(t, err)
	added := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, keyBytes))
	must(t, os.WriteFile(path, []byte("# new\n"+added+"\n\n"+string(old)), 0o600))
	both, err := f.Read()
	must(t, err)
	if got, err := both.Open(sealed, "x"); err != nil || string(got) != "secret" {
		t.Errorf("with the old key second: %q, %v", got, err)
	}
	if _, err := both.Open(sealed, "y"); err == nil {
		t.Error("it opens as another secret")
	}
	again, err := both.Seal([]byte("secret"), "x")
	must(t, err)
	if again.GetKeyId() == first.ID() || again.GetKeyId() != both.ID() {
		t.Errorf("the first key doesn't encrypt: %s", again.GetKeyId())
	}
	must(t, os.WriteFile(path, []byte(added), 0o600))
	only, err := f.Read()
	must(t, err)
	if _, err := only.Open(again, "x"); err != nil {
		t.Error(err)
	}
	if _, err := only.Open(sealed, "x"); err == nil || !strings.Contains(err.Error(), first.ID()) {
		t.Errorf("with the old key removed: %v", err)
	}
	must(t, os.Chmod(path, 0o644)) //nolint:gosec // that is the point
	if _, err := f.Read(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
}

func TestParseToken(t *testing.T) {
	want := Token{CA: digest([]byte("ca")), Secret: strings.Repeat("A", 52)}
	if got, err := ParseToken(" " + want.String() + "\n"); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "drover-abc", want.String()[1:], want.String() + ".x", strings.Replace(want.String(), ".", ".0", 1), tokenPrefix + "..", want.String()[:100]} {
		if got, err := ParseToken(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		} else if want.Secret != "" && strings.Contains(err.Error(), want.Secret) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{CA: digest(nil), Secret: strings.Repeat("A", 52)}.String())
	f.Add(tokenPrefix + ".00.00")
	f.Add(tokenPrefix + "." + strings.Repeat("0", 66) + ".")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if again, err := ParseToken(token.String()); err != nil || again != token {
			t.Errorf("%q: %v, then %v, %v", text, token, again, err)
		}
	})
}

func FuzzParseJoinFile(f *testing.F) {
	token := Token{CA: digest(nil), Secret: strings.Repeat("A", 52)}
	data, err := JoinFile{[]string{"10.0.0.1:7400"}, token}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("schedulers: [x]\ntoken: y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseJoinFile(data)
		if err != nil {
			return
		}
		if file.Token.Secret == "" || len(file.Schedulers) == 0 {
			t.Errorf("%q: half a file is taken: %v", data, file)
		}
		again, err := file.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseJoinFile(again); err != nil || second.Token != file.Token {
			t.Errorf("%q, encoded again: %v, %v", data, second, err)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("# a comment\n" + base64.StdEncoding.EncodeToString(make([]byte, keyBytes)) + "\n"))
	f.Add([]byte("AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseKeys(data)
		if err == nil && len(list) == 0 {
			t.Error("no error and no key")
		}
		for _, key := range list {
			if len(key) != keyBytes {
				t.Errorf("a key of %d bytes", len(key))
			}
		}
	})
}

func FuzzParsePeer(f *testing.F) {
	f.Add("drover://6f1b2d8e-0000-4000-8000-000000000001/agent/n1")
	f.Add("drover://c/scheduler/../agent/n")
	f.Add("https://c/agent/n?x#y")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		p, err := parsePeer(u)
		if err == nil && (p.uri().String() != u.String() || CheckName(p.Name) != nil) {
			t.Errorf("%q is taken for %+v", text, p)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	p, err := Prepare("n1", []string{"localhost", "::1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.CSR)
	f.Fuzz(func(t *testing.T, der []byte) {
		if r, err := ParseRequest(der); err == nil && CheckName(r.Name) != nil {
			t.Errorf("a request for %q is taken", r.Name)
		}
	})
}

func FuzzParseGeneration(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n-----BEGIN DROVER TRUST-----\nAAAA\n-----END DROVER TRUST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, err := parseGeneration(data); err == nil && (g.cert == nil || g.trusts == nil) {
			t.Error("half a generation is taken")
		}
	})
}
