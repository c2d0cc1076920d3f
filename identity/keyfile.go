package identity

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// KeyFile is the path of the file with the key-encryption keys: one a line, base64 of 32 bytes; empty lines and those
// that begin with '#' don't count. The first one encrypts, any decrypts. It is read again at each use.
type KeyFile string

// Keys are those of a key file.
type Keys struct {
	file string
	list [][]byte
}

const keyBytes = 32

// Make writes a file with one new key, unless there is a file.
func (f KeyFile) Make() error {
	if _, err := os.Stat(string(f)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var key [keyBytes]byte
	rand.Read(key[:]) // never fails
	if err := WriteFile(string(f), []byte(base64.StdEncoding.EncodeToString(key[:])+"\n")); err != nil {
		return fmt.Errorf("make key file: %w", err)
	}
	return nil
}

// Read answers the keys. The errors are for operators.
func (f KeyFile) Read() (Keys, error) {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return Keys{}, fmt.Errorf("key file %s does not exist: copy it from another scheduler, or from where the systemd credential comes from", f)
	}
	if err != nil {
		return Keys{}, fmt.Errorf("read key file: %w", err)
	}
	info, err := os.Stat(string(f))
	if err != nil {
		return Keys{}, fmt.Errorf("read key file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return Keys{}, fmt.Errorf("key file %s has mode %04o: others must not read it, nor a group write it; run chmod 600", f, mode)
	}
	list, err := parseKeys(data)
	if err != nil {
		return Keys{}, fmt.Errorf("key file %s: %w", f, err)
	}
	return Keys{file: string(f), list: list}, nil
}

func parseKeys(data []byte) ([][]byte, error) {
	var list [][]byte
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != keyBytes {
			return nil, fmt.Errorf("line %d: want base64 of %d bytes, such as `openssl rand -base64 %d` makes", n, keyBytes, keyBytes)
		}
		list = append(list, key)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return list, nil
}

func keyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// ID is that of the key which encrypts.
func (k Keys) ID() string { return keyID(k.list[0]) }

// Require says, for operators, that the key of an ID is missing.
func (k Keys) Require(id string) error {
	if k.key(id) == nil {
		return fmt.Errorf("key file %s does not hold the key %s that the CA's key is encrypted under: copy the file from another scheduler", k.file, id)
	}
	return nil
}

func (k Keys) key(id string) []byte {
	for _, key := range k.list {
		if keyID(key) == id {
			return key
		}
	}
	return nil
}

// Seal encrypts under the first key. What the secret is about must be given again to open it.
func (k Keys) Seal(secret []byte, about string) (*fleetv1.SealedKey, error) {
	aead, err := gcm(k.list[0])
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce) // never fails
	return &fleetv1.SealedKey{KeyId: k.ID(), Nonce: nonce, Ciphertext: aead.Seal(nil, nonce, secret, []byte(about))}, nil
}

// Open decrypts what Seal has made of the same about.
func (k Keys) Open(sealed *fleetv1.SealedKey, about string) ([]byte, error) {
	if err := k.Require(sealed.GetKeyId()); err != nil {
		return nil, err
	}
	aead, err := gcm(k.key(sealed.GetKeyId()))
	if err != nil {
		return nil, err
	}
	if len(sealed.GetNonce()) != aead.NonceSize() {
		return nil, fmt.Errorf("decrypt %s: the nonce has %d bytes, not %d", about, len(sealed.GetNonce()), aead.NonceSize())
	}
	secret, err := aead.Open(nil, sealed.GetNonce(), sealed.GetCiphertext(), []byte(about))
	if err != nil {
		return nil, fmt.Errorf("decrypt %s: %w", about, err)
	}
	return secret, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	return aead, nil
}
