package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/archive"
	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/study"
)

// ArchiveConfig says where locked studies can be moved to.
type ArchiveConfig struct {
	archive.Config `koanf:",squash"`
	ClickHouse     ClickHouseSettings `koanf:"clickhouse"`
}

// ClickHouseSettings are those of the loader, with its secret.
type ClickHouseSettings struct {
	archive.ClickHouseConfig `koanf:",squash"`
	Password                 Secret `koanf:"password"`
}

func defaultArchive() ArchiveConfig {
	return ArchiveConfig{Config: archive.DefaultConfig(), ClickHouse: ClickHouseSettings{ClickHouseConfig: archive.DefaultClickHouse()}}
}

// Validate returns every problem at once.
func (c ArchiveConfig) Validate() error {
	problems := []error{c.Config.Validate()}
	if err := c.ClickHouse.Validate(); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, errors.New("clickhouse."+line))
		}
	}
	if c.ClickHouse.URL != "" && c.Dir == "" {
		problems = append(problems, errors.New("clickhouse.url: loads what dir holds: set dir, too"))
	}
	return errors.Join(problems...)
}

// archiveDir is the folder that takes archives; where all stores are embedded, it lies beside them unless the settings say otherwise.
func (c *Config) archiveDir() string {
	if c.Archive.Dir == "" && c.allEmbedded() {
		return filepath.Join(c.DataDir, "archive")
	}
	return c.Archive.Dir
}

// openArchive wires the archive; without a folder it answers that it is off.
func (a *app) openArchive(shelf *study.Store) error {
	c := a.config.Archive
	parts := archive.Parts{Store: &archive.Store{Meta: a.meta}, Shards: a.shards, Studies: shelvedStudies{shelf, a.catalog}, Definitions: a.catalog,
		Keys: a.keyring, Locks: a.procedures, IDs: a.ids, Guard: a.guard, Attester: a.signer, Now: time.Now, Log: a.log}
	if dir := a.config.archiveDir(); dir != "" {
		folder, err := archive.NewFolder(dir)
		if err != nil {
			return err
		}
		parts.Destination = folder
	}
	if c.ClickHouse.URL != "" {
		var err error
		if parts.ClickHouse, err = archive.NewClickHouse(c.ClickHouse.ClickHouseConfig, string(c.ClickHouse.Password)); err != nil {
			return err
		}
	}
	a.archives = archive.New(c.Config, parts)
	return nil
}

// shelvedStudies shows studies to the archive. The version of a locked study stands for its locking: whatever opens it raises it.
type shelvedStudies struct {
	shelf   *study.Store
	catalog *study.Catalog
}

// Locked implements archive.Studies.
func (s shelvedStudies) Locked(ctx context.Context, id int64) (int64, error) {
	st, err := s.shelf.ByID(ctx, id)
	if err == nil && st.Status != study.Locked {
		err = errs.New(errs.Conflict, "study_not_locked", "only a locked study can be archived; this one is "+st.Status)
	}
	return st.Version, err
}

// Archived implements archive.Studies.
func (s shelvedStudies) Archived(ctx context.Context, id int64) (bool, error) {
	st, err := s.shelf.ByID(ctx, id)
	return st.Status == study.Archived, err
}

// Archive implements archive.Studies.
func (s shelvedStudies) Archive(ctx context.Context, id, lock int64, entry audit.Entry) error {
	defer s.catalog.Forget(ctx, id)
	return s.shelf.Shelve(ctx, id, lock, study.Locked, study.Archived, entry)
}

// Relock implements archive.Studies.
func (s shelvedStudies) Relock(ctx context.Context, id int64, entry audit.Entry) error {
	defer s.catalog.Forget(ctx, id)
	return s.shelf.Shelve(ctx, id, 0, study.Archived, study.Locked, entry)
}

// Design implements archive.Studies.
func (s shelvedStudies) Design(ctx context.Context, id int64) (archive.Design, error) {
	st, err := s.shelf.ByID(ctx, id)
	if err != nil {
		return archive.Design{}, err
	}
	d := archive.Design{Protocol: st.Protocol}
	versions, err := s.shelf.Questionnaires(ctx, id)
	if err != nil {
		return d, err
	}
	for _, q := range versions {
		if q.Status == study.Active {
			d.Versions = append(d.Versions, archive.VersionSum{URL: q.URL, Version: q.Version, SHA256: hex.EncodeToString(q.SHA256[:])})
		}
	}
	schedules, err := s.shelf.Schedules(ctx, id)
	for _, v := range schedules {
		d.Schedules = append(d.Schedules, v.Version)
	}
	return d, err
}

// withApp is withData with the contexts over them.
func (p *program) withApp(run func(*cobra.Command, *app) error) func(*cobra.Command, []string) error {
	return p.withData(func(cmd *cobra.Command, s *stores) error {
		a, err := newApp(cmd.Context(), s)
		if err != nil {
			return err
		}
		return errors.Join(run(cmd, a), a.close())
	})
}

// archiveCommand moves a study and reports; a command that is killed is repeated, or a processor goes on with it.
func (p *program) archiveCommand() *cobra.Command {
	cmd := p.moveCommand("archive", archive.Out, "Move a locked study from the shards into files, and into ClickHouse where it is configured")
	cmd.AddCommand(p.moveCommand("restore", archive.Back, "Bring an archived study back onto the shards; it is locked then"), p.archiveStatusCommand())
	return cmd
}

func (p *program) moveCommand(name string, way archive.Direction, short string) *cobra.Command {
	var id, reason string
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	cmd.RunE = p.withApp(func(cmd *cobra.Command, a *app) error {
		st, err := a.catalog.StudyByProtocol(cmd.Context(), id)
		if err != nil {
			return err
		}
		if _, err := a.archives.Start(cmd.Context(), st.ID, way, archive.Actor{Kind: "system", Source: "command"}, reason); err != nil {
			return err
		}
		if err := a.carry(cmd.Context(), st.ID); err != nil {
			return err
		}
		return printArchive(cmd, a, st.ID)
	})
	cmd.Flags().StringVar(&id, "study", "", "id or protocol number")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit trail and the manifest")
	for _, flag := range []string{"study", "reason"} {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flags stand above
		}
	}
	return cmd
}

// carry drives a move to its end; while another process is at it, it waits and looks again.
func (a *app) carry(ctx context.Context, id int64) error {
	for {
		err := a.archives.Drive(ctx, id)
		var held *lock.HeldError
		if e, ok := errs.As(err); !errors.As(err, &held) && (!ok || e.Code != archive.CodeOvertaken) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (p *program) archiveStatusCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{Use: "status", Short: "Tell how far the move of a study is", Args: cobra.NoArgs}
	cmd.RunE = p.withApp(func(cmd *cobra.Command, a *app) error {
		st, err := a.catalog.StudyByProtocol(cmd.Context(), id)
		if err != nil {
			return err
		}
		return printArchive(cmd, a, st.ID)
	})
	cmd.Flags().StringVar(&id, "study", "", "id or protocol number")
	if err := cmd.MarkFlagRequired("study"); err != nil {
		panic(err) // the flag stands above
	}
	return cmd
}

func printArchive(cmd *cobra.Command, a *app, id int64) error {
	state, err := a.archives.State(cmd.Context(), id)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "study %d: %s, step %s\n", id, state.Run.Direction, state.Run.Step)
	if state.Run.Problem != "" {
		fmt.Fprintf(out, "problem: %s\n", state.Run.Problem)
	}
	fmt.Fprintf(out, "%d files, %d bytes, %d rows; %d read back, %d loaded into ClickHouse\n", state.Counts.Files, state.Counts.Bytes, state.Counts.Rows, state.Counts.Verified, state.Counts.Loaded)
	if state.Manifest == nil {
		return nil
	}
	var m archive.Manifest
	if err := json.Unmarshal(state.Manifest, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	fmt.Fprintf(out, "manifest: %s\nsha256: %x\nrows: %d, digest %s\n", state.Run.Place, state.Run.Manifest, m.Rows, m.Digest)
	return nil
}
