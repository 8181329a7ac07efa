package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
)

// program is what every command starts from: the settings' sources and the terminal.
type program struct {
	env        []string
	configFile string
	flags      map[string]string
}

// rootCommand returns the command line. It reads nothing but its arguments and env.
func rootCommand(env []string) *cobra.Command {
	p := &program{env: env, flags: make(map[string]string)}
	root := &cobra.Command{
		Use:           "eprod",
		Short:         "An ePRO server for clinical trials",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&p.configFile, "config", envOr(env, "EPROD_CONFIG", ""), "settings file (default ./config.yaml where it exists)")
	p.setting(root, "data-dir", "dataDir", "folder of the embedded stores")
	root.AddCommand(p.serveCommand(), p.migrateCommand(), p.configCommand(), p.userCommand(), p.reconcileCommand(), p.archiveCommand(), p.shardsCommand(), p.cacheCommand(), p.idCommand(), p.sandboxCommand(), p.healthCommand(), versionCommand())
	return root
}

// setting adds a flag that stands for a key of the settings.
func (p *program) setting(cmd *cobra.Command, flag, key, usage string) {
	cmd.PersistentFlags().Var(&settingFlag{p.flags, key}, flag, usage)
}

// settingFlag hands a flag's value to the settings loader.
type settingFlag struct {
	into map[string]string
	key  string
}

// Set implements pflag.Value.
func (f *settingFlag) Set(v string) error { f.into[f.key] = v; return nil }

// String implements pflag.Value.
func (f *settingFlag) String() string {
	if f == nil || f.into == nil {
		return ""
	}
	return f.into[f.key]
}

// Type implements pflag.Value.
func (f *settingFlag) Type() string { return "string" }

func envOr(env []string, name, fallback string) string {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return fallback
}

func (p *program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server in one or all roles",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.config()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	p.setting(cmd, "role", "role", "all, api or processor (consumer is another name for processor)")
	p.setting(cmd, "listen", "http.listen", "address of the public listener")
	p.setting(cmd, "ops-listen", "http.opsListen", "address of the operators' listener; never public")
	cmd.Flags().Var(&settingFlag{p.flags, "demo"}, "demo", "fill an empty data folder with a demonstration study")
	cmd.Flags().Lookup("demo").NoOptDefVal = "true"
	return cmd
}

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the settings"}
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "Read all settings, name every problem, start nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.config()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "settings are good: role %s, %s\n", c.Role, c.stores())
			return nil
		},
	})
	return cmd
}

func (p *program) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the databases to this version's schema"}
	cmd.AddCommand(&cobra.Command{
		Use: "up", Short: "Apply what is missing, on all databases", Args: cobra.NoArgs,
		RunE: p.withStores(func(cmd *cobra.Command, s *stores) error {
			return s.migrate(cmd.Context())
		}),
	}, &cobra.Command{
		Use: "status", Short: "List what is applied and what is missing", Args: cobra.NoArgs,
		RunE: p.withStores(func(cmd *cobra.Command, s *stores) error {
			for _, d := range s.databases() {
				list, err := db.MigrationStatus(cmd.Context(), d.DB, d.set)
				if err != nil {
					return fmt.Errorf("%s: %w", d.Name, err)
				}
				for _, m := range list {
					state := "missing"
					if m.Applied {
						state = "applied"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%-10s %-8s %04d %s\n", d.Name, state, m.Version, m.Name)
				}
			}
			return nil
		}),
	})
	return cmd
}

// withStores opens the stores around a command and closes them after it. The embedded stores are created and migrated
// when they are missing.
func (p *program) withStores(run func(*cobra.Command, *stores) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		c, err := p.config()
		if err != nil {
			return err
		}
		s, err := openStores(cmd.Context(), c, newLogger(cmd.ErrOrStderr(), c))
		if err != nil {
			return err
		}
		if s.embedded != nil {
			err = s.migrate(cmd.Context())
		}
		if err == nil {
			err = run(cmd, s)
		}
		return errors.Join(err, s.close())
	}
}

// withData is withStores for commands that go by the map of the shards. They are not among the processes that a move waits for, and so
// they ask the shards.
func (p *program) withData(run func(*cobra.Command, *stores) error) func(*cobra.Command, []string) error {
	return p.withStores(func(cmd *cobra.Command, s *stores) error {
		if err := s.schema(cmd.Context()); err != nil {
			return err
		}
		if err := s.growth.Prepare(cmd.Context()); err != nil {
			return err
		}
		return run(cmd, s)
	})
}

func (p *program) userCommand() *cobra.Command {
	var username, role string
	var fromStdin bool
	add := &cobra.Command{Use: "add", Short: "Add a staff account", Args: cobra.NoArgs}
	add.RunE = p.withStores(func(cmd *cobra.Command, s *stores) error {
		password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr(), fromStdin)
		if err != nil {
			return err
		}
		app, err := newApp(cmd.Context(), s)
		if err != nil {
			return err
		}
		id, err := app.users.AddStaff(cmd.Context(), username, password, auth.Role(role))
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "added %s (%s) with id %d\n", username, role, id)
		}
		return errors.Join(err, app.close())
	})
	add.Flags().StringVar(&username, "username", "", "name to sign in with")
	add.Flags().StringVar(&role, "role", "administrator", "administrator or service; study roles are granted per study")
	add.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input without asking")
	if err := add.MarkFlagRequired("username"); err != nil {
		panic(err) // the flag stands two lines above
	}
	cmd := &cobra.Command{Use: "user", Short: "Staff accounts"}
	cmd.AddCommand(add)
	return cmd
}

// readPassword reads one line; on a terminal it says what it waits for.
func readPassword(in io.Reader, prompt io.Writer, quiet bool) (string, error) {
	if !quiet {
		fmt.Fprint(prompt, "password: ")
	}
	raw, err := io.ReadAll(io.LimitReader(in, 4096))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	if line = strings.TrimRight(line, "\r"); line == "" {
		return "", errors.New("the password is empty: write it to standard input")
	}
	return line, nil
}

func (p *program) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Ask the running server whether it lives; exit code 0 if it does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.config()
			if err != nil {
				return err
			}
			return askHealth(cmd.Context(), c.HTTP.OpsListen)
		},
	}
}

func askHealth(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	address = strings.Replace(address, "0.0.0.0:", "127.0.0.1:", 1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/livez", nil)
	if err != nil {
		return fmt.Errorf("address of the operators' listener: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no server answers on the operators' listener: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", res.Status)
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit and Go version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		},
	}
}

// version describes this build from what the Go toolchain recorded.
func version() string {
	return fmt.Sprintf("eprod %s commit %s %s %s/%s", release(), revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// release is the version of the module, or "devel".
func release() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// revision is the first of the commit's digits, or "unknown".
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(len(s.Value), 12)]
			}
		}
	}
	return "unknown"
}

// readFile returns the settings file: the named one, which must exist, else ./config.yaml where it exists.
func (p *program) readFile() (content []byte, name string, err error) {
	if p.configFile != "" {
		content, err = os.ReadFile(p.configFile)
		return content, p.configFile, err
	}
	content, err = os.ReadFile("config.yaml")
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", nil
	}
	return content, "config.yaml", err
}
