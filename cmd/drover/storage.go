package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxSecret is more than any store's secret keys have, in bytes.
const maxSecret = 4096

func (a *app) storageCommand() *cobra.Command {
	return a.noun("storage", "Manage the keys with which a project's jobs use object storage",
		a.storageSet(), a.storageList(), a.storageDelete())
}

func (a *app) storageSet() *cobra.Command {
	var accessKey, secretFile string
	cmd := &cobra.Command{
		Use: "set SCHEME --access-key KEY", Short: "Set the key for s3:// or obs:// URLs",
		Long: "Set the key with which the jobs of a project read and write s3:// or obs:// URLs, instead of the one before. The\n" +
			"secret key is read from a file or from standard input, and is never shown again.",
		Example:   "  drover storage set s3 --access-key AKBYBLFOCWKQXRWQKQPZ --secret-key-file s3.secret\n  pass show obs | drover storage set obs --access-key AKBYBLFOCWKQXRWQKQPZ",
		Args:      exactly("SCHEME"),
		ValidArgs: []string{"s3", "obs"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case accessKey == "":
				return usagef(cmd, "--access-key is missing")
			case secretFile == "" && a.keyboard:
				return usagef(cmd, "--secret-key-file is missing, and standard input is a keyboard: a secret key isn't typed for others to see")
			}
			secret, err := a.readSecret(secretFile)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.StorageKeys.SetStorageKey,
				&fleetv1.SetStorageKeyRequest{Project: a.project, Scheme: args[0], AccessKey: accessKey, SecretKey: secret})
			if err != nil {
				return err
			}
			return a.print(resp.GetKey(), func() error {
				_, err := fmt.Fprintf(a.out, "%s:// is used with the access key %s\n", args[0], resp.GetKey().GetAccessKey())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&accessKey, "access-key", "", "access `key`")
	cmd.Flags().StringVar(&secretFile, "secret-key-file", "", "`file` with the secret key; standard input by default")
	must(cmd.MarkFlagFilename("secret-key-file"))
	return a.printing(a.projected(cmd))
}

// readSecret reads a secret of one line; no error holds it.
func (a *app) readSecret(file string) (string, error) {
	in := a.in
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the secret key: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read the secret key: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	switch {
	case len(data) > maxSecret:
		return "", fmt.Errorf("the secret key has more than %d bytes: is it the right file?", maxSecret)
	case secret == "":
		return "", errors.New("the secret key is empty")
	case strings.ContainsAny(secret, " \t\r\n"):
		return "", errors.New("the secret key has white space in it: the file should hold it and nothing else")
	}
	return secret, nil
}

func (a *app) storageList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys of a project; their secret keys are not shown",
		Example: "  drover storage list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.StorageKeys.ListStorageKeys, &fleetv1.ListStorageKeysRequest{Project: a.project})
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				t := &table{head: []string{"SCHEME", "ACCESS KEY", "SET", "BY"}}
				for _, k := range resp.GetKeys() {
					m := k.GetMeta()
					t.add(text("%s", m.GetName()), text("%s", k.GetAccessKey()), text("%s", a.when(m.GetUpdateTime())), text("%s", m.GetCreatedBy()))
				}
				return a.drawTable(t, "no keys for storage in the project")
			})
		},
	}
	return a.reading(a.projected(cmd))
}

func (a *app) storageDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete SCHEME", Short: "Delete a key: jobs that need it wait, or fail",
		Example:           "  drover storage delete s3",
		Args:              exactly("SCHEME"),
		ValidArgsFunction: a.names(a.storageSchemes),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.StorageKeys.DeleteStorageKey, &fleetv1.DeleteStorageKeyRequest{Project: a.project, Scheme: args[0]}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "the key for %s:// deleted\n", args[0])
			return err
		},
	}
	return a.projected(cmd)
}

func (a *app) storageSchemes(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.StorageKeys.ListStorageKeys(ctx, &fleetv1.ListStorageKeysRequest{Project: a.project})
	return metaNames(resp.GetKeys(), err)
}
