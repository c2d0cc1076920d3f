package registry

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// helperTimeout bounds one run of a credential helper.
const helperTimeout = 10 * time.Second

// dockerHub is the key under which Docker keeps the credentials of its own registry, whose host has
// several names.
const dockerHub = "https://index.docker.io/v1/"

// Credentials answers what the Docker config file holds for the host ("host" or "host:port"); both
// are empty when it holds nothing. An empty user with a secret is an identity (refresh) token.
func (r *Registry) Credentials(host string) (user, secret string, err error) {
	if r.cfg.DockerConfig == "" {
		return "", "", nil
	}
	f, err := os.Open(r.cfg.DockerConfig)
	if err != nil {
		return "", "", fmt.Errorf("read registry credentials: %w", err)
	}
	defer f.Close()
	file, err := config.LoadFromReader(f)
	if err != nil {
		return "", "", fmt.Errorf("read registry credentials of %s: %w", r.cfg.DockerConfig, err)
	}
	key := host
	if host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io" {
		key = dockerHub
	}
	if helper := helperOf(file, key, host); helper != "" {
		return askHelper(helper, key)
	}
	auth, err := file.GetAuthConfig(key)
	if err != nil {
		return "", "", fmt.Errorf("read registry credentials of %s for %s: %w", r.cfg.DockerConfig, host, err)
	}
	if auth.IdentityToken != "" {
		return "", auth.IdentityToken, nil
	}
	return auth.Username, auth.Password, nil
}

func helperOf(file *configfile.ConfigFile, keys ...string) string {
	for _, k := range keys {
		if h := file.CredentialHelpers[k]; h != "" {
			return h
		}
	}
	return file.CredentialsStore
}

func askHelper(helper, key string) (user, secret string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helperTimeout)
	defer cancel()
	program := "docker-credential-" + helper
	found, err := client.Get(func(args ...string) client.Program {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.WaitDelay = time.Second
		return &helperProgram{cmd}
	}, key)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return "", "", nil
	case err != nil:
		return "", "", fmt.Errorf("ask credential helper %s for %s: %w", program, key, err)
	case found.Username == "<token>":
		return "", found.Secret, nil
	}
	return found.Username, found.Secret, nil
}

// helperProgram is a credential helper's process.
type helperProgram struct{ cmd *exec.Cmd }

func (p *helperProgram) Output() ([]byte, error) { return p.cmd.Output() }
func (p *helperProgram) Input(in io.Reader)      { p.cmd.Stdin = in }
