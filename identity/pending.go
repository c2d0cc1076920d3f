package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Pending is a key whose certificate is being asked for.
type Pending struct {
	CSR []byte // DER

	key *ecdsa.PrivateKey
}

// Prepare makes a key, which is in memory alone, and the request for its certificate. Hosts are the names and
// addresses that operators reach a scheduler by.
func Prepare(name string, hosts []string) (*Pending, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return request(key, name, hosts)
}

func request(key *ecdsa.PrivateKey, name string, hosts []string) (*Pending, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate signing request: %w", err)
	}
	return &Pending{CSR: csr, key: key}, nil
}

// joinKeyFile keeps the key of a Join until it has succeeded: asking again with the same key is no other use of the
// token.
const joinKeyFile = "join.key"

// joinKey answers the key of a Join that was begun before, or begins one.
func (k *Keeper) joinKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(k.dir, joinKeyFile)
	data, err := os.ReadFile(path)
	if err == nil {
		if b, _ := pem.Decode(data); b != nil && b.Type == keyBlock {
			if key, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
				if key, ok := key.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
		k.log.Warn("the key of an earlier try to join can't be read: another one is made", "file", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the key to join with: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	if err := WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})); err != nil {
		return nil, fmt.Errorf("save the key to join with: %w", err)
	}
	return key, nil
}
