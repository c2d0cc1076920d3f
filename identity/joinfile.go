package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// tokenPrefix begins every join token; the number is that of its form.
const tokenPrefix = "drover-join-1"

// validSecret has at least 128 bits as base32.
var validSecret = regexp.MustCompile(`^[A-Z2-7]{26,64}$`)

// Token is what a join token says: whom to believe, and the secret that lets the host in.
type Token struct {
	CA     [sha256.Size]byte // SHA-256 of a root's certificate
	Secret string
}

// NewToken is the token of a cluster whose root has the certificate.
func NewToken(root []byte, secret string) Token { return Token{sha256.Sum256(root), secret} }

// String is the token as the operator hands it over.
func (t Token) String() string {
	return tokenPrefix + "." + hex.EncodeToString(t.CA[:]) + "." + t.Secret
}

// ParseToken reads a join token. Its errors don't show it.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 3 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("want a join token, which begins with %s", tokenPrefix)
	}
	t := Token{Secret: parts[2]}
	ca, err := hex.DecodeString(parts[1])
	if err != nil || len(ca) != len(t.CA) {
		return Token{}, errors.New("the join token's digest is damaged: copy the whole token")
	}
	copy(t.CA[:], ca)
	if !validSecret.MatchString(t.Secret) {
		return Token{}, errors.New("the join token's secret is damaged: copy the whole token")
	}
	return t, nil
}

// JoinFile is all that a new host needs.
type JoinFile struct {
	Schedulers []string // gRPC addresses
	Token      Token
}

// joinFile is how it is written.
type joinFile struct {
	Schedulers []string `yaml:"schedulers"`
	Token      string   `yaml:"token"`
}

// maxJoinFile bounds what is read.
const maxJoinFile = 64 << 10

// ReadJoinFile reads a join file.
func ReadJoinFile(r io.Reader) (JoinFile, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxJoinFile+1))
	if err != nil {
		return JoinFile{}, fmt.Errorf("read the join file: %w", err)
	}
	if len(data) > maxJoinFile {
		return JoinFile{}, fmt.Errorf("join file: has more than %d bytes", maxJoinFile)
	}
	f, err := parseJoinFile(data)
	if err != nil {
		return JoinFile{}, fmt.Errorf("join file: %w", err)
	}
	return f, nil
}

func parseJoinFile(data []byte) (JoinFile, error) {
	var raw joinFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&raw); err != nil {
		return JoinFile{}, errors.New("it is not one: want `schedulers:` and `token:`, as `drover cluster join-token` prints them")
	}
	token, err := ParseToken(raw.Token)
	if err != nil {
		return JoinFile{}, fmt.Errorf("token: %w", err)
	}
	if len(raw.Schedulers) == 0 {
		return JoinFile{}, errors.New("schedulers: at least one address is needed")
	}
	for i, addr := range raw.Schedulers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return JoinFile{}, fmt.Errorf("schedulers[%d]: %q is not host:port", i, addr)
		}
	}
	return JoinFile{Schedulers: raw.Schedulers, Token: token}, nil
}

// Encode writes the file.
func (f JoinFile) Encode() ([]byte, error) {
	data, err := yaml.Marshal(joinFile{f.Schedulers, f.Token.String()})
	if err != nil {
		return nil, fmt.Errorf("encode the join file: %w", err)
	}
	return data, nil
}
