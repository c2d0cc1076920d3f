package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drover-fleet/drover/client"
)

// app is one run of the command line.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time
	terminal bool // out is one
	keyboard bool // in is one

	size func() (columns, rows int, err error) // of the terminal

	conn    connFlags
	output  string
	project string
	timeout time.Duration

	cl *client.Client
}

// connFlags say how to reach the scheduler.
type connFlags struct{ addr, tokenFile, caFile string }

// execute runs one command line and answers its exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if a.cl != nil {
		err = errors.Join(err, a.cl.Close())
	}
	if err == nil {
		return exitDone
	}
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(a.err, "drover: %s\n", describe(err))
	return exitCode(err)
}

// terminalSize answers 80×24 for a terminal that doesn't say.
func (a *app) terminalSize() (columns, rows int) {
	if a.size == nil {
		return 80, 24
	}
	columns, rows, err := a.size()
	if err != nil || columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Run inference on a fleet of accelerator hosts",
		Long: "Drover runs inference services on a fleet of hosts: `drover scheduler` and `drover agent` are the daemons,\n" +
			"`drover dev` is both on this machine, and every other command talks to a scheduler.",
		Example:       "  drover dev\n  drover apply -f examples/iris/ --wait\n  drover service list",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          missingVerb,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef(cmd, "%v", err)
	})
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(
		a.applyCommand(), a.deleteCommand(),
		a.nodeCommand(), a.deviceCommand(), a.flavorCommand(), a.poolCommand(), a.quotaCommand(), a.modelCommand(),
		a.serviceCommand(), a.jobCommand(), a.storageCommand(), a.instanceCommand(), a.eventCommand(), a.clusterCommand(), a.versionCommand(),
		a.accountCommand(), a.projectCommand(), a.userCommand(), a.tokenCommand(), a.keyCommand(), a.appCommand(),
	)
	root.AddCommand(a.daemonCommands()...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	finish(root)
	return root
}

// finish gives the commands that cobra makes itself what every command has.
func finish(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  drover help service deploy"
		case "completion":
			cmd.Example = "  source <(drover completion bash)"
			for _, shell := range cmd.Commands() {
				shell.Example = "  drover completion " + shell.Name()
			}
		}
	}
}

// noun makes a command that only groups verbs.
func (a *app) noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short,
		Example: "  drover " + name + " " + verbs[0].Name(),
		Args:    cobra.ArbitraryArgs,
		RunE:    missingVerb,
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// missingVerb refuses a noun without a verb, or with one that doesn't exist.
func missingVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		if !cmd.HasParent() {
			return cmd.Help()
		}
		return usagef(cmd, "%s what? One of: %s", cmd.CommandPath(), strings.Join(verbNames(cmd), ", "))
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	for _, near := range cmd.SuggestionsFor(args[0]) {
		if hint == "" || strings.HasPrefix(args[0], near) {
			hint = fmt.Sprintf("; did you mean %s?", near)
		}
	}
	return usagef(cmd, "unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
}

func verbNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// online gives a command the flags that reach a scheduler.
func (a *app) online(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&a.conn.addr, "addr", "", "scheduler's gRPC `host:port` (DROVER_ADDR; default the context's, else "+client.DefaultAddr+")")
	f.StringVar(&a.conn.tokenFile, "token-file", "", "`file` with the caller's token (or the token itself in DROVER_TOKEN)")
	f.StringVar(&a.conn.caFile, "ca-file", "", "`file` with the scheduler's CA certificates (DROVER_CA)")
	f.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long one request may take")
	return cmd
}

// projected gives a command the flag that names its project.
func (a *app) projected(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.project, "project", "", "project of the object (default the token's own)")
	return a.online(cmd)
}

// printing gives a command the output flag.
func (a *app) printing(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&a.output, "output", "o", "table", "output format: table, json or yaml")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	pre := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		switch a.output {
		case "table", "json", "yaml":
		default:
			return usagef(cmd, "--output %q: want table, json or yaml", a.output)
		}
		if pre != nil {
			return pre(cmd, args)
		}
		return nil
	}
	return cmd
}

// must is for calls that fail only when the program itself is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// client connects with flags, then environment, then the context file.
func (a *app) client() (*client.Client, error) {
	if a.cl != nil {
		return a.cl, nil
	}
	saved, err := a.loadContext()
	if err != nil {
		return nil, err
	}
	cfg := client.Config{
		Addr:      first(a.conn.addr, a.getenv("DROVER_ADDR"), saved.Addr),
		TokenFile: a.conn.tokenFile,
		CAFile:    first(a.conn.caFile, a.getenv("DROVER_CA"), saved.CAFile),
	}
	if cfg.TokenFile == "" {
		if cfg.Token = a.getenv("DROVER_TOKEN"); cfg.Token == "" {
			cfg.TokenFile = saved.TokenFile
		}
	}
	cl, err := client.Dial(cfg)
	if err != nil {
		return nil, err
	}
	a.cl = cl
	return cl, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// exactly is cobra.ExactArgs with names, as a usage error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

// atMostOne is cobra.MaximumNArgs(1) as a usage error.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef(cmd, "unexpected argument %q", args[1])
	}
	return nil
}

// defaultTimeout bounds one request.
const defaultTimeout = 30 * time.Second
