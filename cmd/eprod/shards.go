package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/growth"
	"github.com/eprod/eprod/internal/lock"
)

// followMap keeps this process to the map of the shards under a name of its own.
func (s *server) followMap(ctx context.Context) error {
	var random [6]byte
	_, _ = rand.Read(random[:])
	return s.growth.Run(ctx, processName()+"-"+s.config.Role+"-"+hex.EncodeToString(random[:]))
}

func (p *program) shardsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "shards", Short: "Look at the shards, add one, move participants between them", Long: "docs/scaling.md tells the procedure and what happens when it is interrupted."}
	cmd.AddCommand(p.shardsStatusCommand(), p.shardsAddCommand(), p.shardsMoveCommand())
	return cmd
}

func (p *program) shardsStatusCommand() *cobra.Command {
	var asJSON, rows bool
	cmd := &cobra.Command{Use: "status", Short: "Show the map, the processes that follow it, rows, and moves with their progress", Args: cobra.NoArgs}
	cmd.RunE = p.withData(func(cmd *cobra.Command, s *stores) error {
		status, err := s.growth.Status(cmd.Context(), rows)
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(status)
		}
		return printShards(cmd.OutOrStdout(), &status)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&rows, "rows", false, "count the rows of every table; reads an index of each to its end")
	return cmd
}

func printShards(out io.Writer, status *growth.Status) error {
	fmt.Fprintf(out, "map: version %d\n", status.Version)
	for _, s := range status.Shards {
		fmt.Fprintf(out, "%s: buckets %s", s.Name, growth.BucketList(s.Buckets))
		if !s.Member {
			fmt.Fprint(out, " (not added)")
		}
		for _, standing := range []db.BucketStanding{db.Watched, db.Held, db.Arriving, db.Gone} {
			if n := s.Copies[standing]; n > 0 {
				fmt.Fprintf(out, ", %d %s", n, standing)
			}
		}
		fmt.Fprintln(out)
		if s.Problem != "" {
			fmt.Fprintf(out, "  %s\n", s.Problem)
		}
		for _, t := range db.ShardTables() {
			if n := s.Rows[t.Name]; n > 0 {
				fmt.Fprintf(out, "  %-22s %d\n", t.Name, n)
			}
		}
	}
	for _, p := range status.Processes {
		fmt.Fprintf(out, "process %s: version %d, seen %s\n", p.ID, p.Version, p.SeenAt.Format(time.RFC3339))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, m := range status.Moves {
		fmt.Fprintf(w, "move %d to %s: %s; %d of %d buckets switched, %d cleared\n", m.ID, m.Target, m.State, m.In(growth.Switched)+m.In(growth.Cleared), len(m.Buckets), m.In(growth.Cleared))
		fmt.Fprintln(w, "bucket\tfrom\tphase\tparticipants\trows\tholds\tlongest hold\tchecksum\t")
		for _, b := range m.Buckets {
			fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%v\t%.16s\t\n", b.Bucket, b.Source, b.Phase, b.Participants, b.Rows, b.Holds, b.Held.Round(time.Millisecond), b.Checksum)
		}
	}
	return w.Flush()
}

func (p *program) shardsAddCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "add", Short: "Let a new, empty shard hold participants", Args: cobra.NoArgs,
		Long: "The shard must be in database.shards of every process that runs, with buckets: none, and migrated (eprod migrate up).",
	}
	cmd.RunE = p.withData(func(cmd *cobra.Command, s *stores) error {
		if err := s.growth.Add(cmd.Context(), name); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is a shard; move buckets to it with eprod shards move\n", name)
		return err
	})
	cmd.Flags().StringVar(&name, "name", "", "name of the shard in the settings")
	if err := cmd.MarkFlagRequired("name"); err != nil {
		panic(err) // the flag stands two lines above
	}
	return cmd
}

func (p *program) shardsMoveCommand() *cobra.Command {
	var list, to string
	var resume, cancel bool
	cmd := &cobra.Command{
		Use: "move", Short: "Move buckets of participants to another shard while everything runs", Args: cobra.NoArgs,
		Long: "Copies, verifies and switches, and ends when the old copies are gone. Interrupted at any moment, it is resumed with --resume, or undone, as far as\n" +
			"it has not switched, with --cancel.",
	}
	cmd.RunE = p.withData(func(cmd *cobra.Command, s *stores) error {
		begin := list != "" || to != ""
		if begin == (resume || cancel) || resume && cancel || begin && (list == "" || to == "") {
			return errors.New("say --buckets and --to, or --resume, or --cancel")
		}
		return s.underMoveLock(cmd.Context(), func(ctx context.Context, fence int64) error {
			if begin {
				buckets, err := growth.ParseBuckets(list)
				if err != nil {
					return err
				}
				if _, err := s.growth.Begin(ctx, to, buckets); err != nil {
					return err
				}
			}
			step := func(step string) error {
				fmt.Fprintln(cmd.OutOrStdout(), time.Now().Format("15:04:05.000 ")+step)
				return ctx.Err()
			}
			work := s.growth.Continue
			if cancel {
				work = s.growth.Cancel
			}
			move, err := work(ctx, fence, step)
			if err != nil {
				return err
			}
			return printMove(cmd.OutOrStdout(), &move)
		})
	})
	cmd.Flags().StringVar(&list, "buckets", "", "which, such as 64-127,200")
	cmd.Flags().StringVar(&to, "to", "", "name of the shard that they move to")
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with the move that was interrupted")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "undo what the move that was interrupted has not switched")
	return cmd
}

func printMove(out io.Writer, m *growth.Move) error {
	var total, longest time.Duration
	var rows int64
	holds := 0
	for _, b := range m.Buckets {
		total, longest, rows, holds = total+b.Held, max(longest, b.Held), rows+b.Rows, holds+b.Holds
	}
	mean := total / time.Duration(max(1, len(slices.DeleteFunc(slices.Clone(m.Buckets), func(b growth.Bucket) bool { return b.Holds == 0 }))))
	_, err := fmt.Fprintf(out, "move %d: %s; %d buckets on %s, %d where they were; %d rows compared; writers held %d times, %v on average, %v at most\n", m.ID, m.State,
		m.In(growth.Cleared), m.Target, m.In(growth.Undone), rows, holds, mean.Round(time.Millisecond), longest.Round(time.Millisecond))
	return err
}

// underMoveLock runs fn for one person at a time; the fence keeps out whoever believes to hold the lock still.
func (s *stores) underMoveLock(ctx context.Context, fn func(ctx context.Context, fence int64) error) error {
	if s.meta.Dialect == db.SQLite {
		return fn(ctx, 0) // refuses
	}
	locks := lock.NewTable(s.meta, lock.Parts{Config: s.config.Locks, Holder: processName(), Clock: time.Now, Random: rand.Reader, Log: s.log})
	const longest = 30 * 24 * time.Hour
	ttl := s.config.Growth.Lease
	lease, err := locks.Acquire(ctx, "shards", ttl, lock.Renew(longest), lock.Wait(2*ttl))
	if err != nil {
		return fmt.Errorf("moves of shards: %w", err)
	}
	working, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-lease.Done():
			stop()
		case <-working.Done():
		}
	})
	err = fn(working, lease.Token)
	stop()
	watching.Wait()
	return errors.Join(err, lease.Release(context.WithoutCancel(ctx)))
}
