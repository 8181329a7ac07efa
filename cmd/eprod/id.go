package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/idgen"
)

func (p *program) idCommand() *cobra.Command {
	decode := &cobra.Command{
		Use: "decode ID", Short: "Tell when, and by which worker, a Snowflake id was issued", Args: cobra.ExactArgs(1),
		Long: "Takes an id apart into its time (UTC), worker number and sequence, by the settings' ids.epoch. For people only: nothing\nmay depend on it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.config()
			if err != nil {
				return err
			}
			if c.IDs.Kind == idgen.OfNumber {
				return errors.New("ids.kind is sequence: its numbers hold no time and no worker")
			}
			id, err := strconv.ParseUint(args[0], 10, 63) // takes no sign
			if err != nil {
				return fmt.Errorf("%q is no id: an id is a decimal number between 1 and %d", args[0], int64(math.MaxInt64))
			}
			at, worker, seq, err := idgen.Decode(c.IDs, int64(id))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "time      %s\nworker    %d\nsequence  %d\n", at.Format("2006-01-02T15:04:05.000Z07:00"), worker, seq)
			return nil
		},
	}
	cmd := &cobra.Command{Use: "id", Short: "Look at ids"}
	cmd.AddCommand(decode)
	return cmd
}

// openIDs makes the generator and keeps its worker number alive until close.
func (a *app) openIDs(ctx context.Context) error {
	c, deps := a.config.IDs, idgen.Deps{Refused: a.idRefused, Log: a.log}
	if c.Kind == idgen.OfNumber {
		sequence, err := idgen.NewSequence(a.redis, a.prefix(), c, deps)
		if err != nil {
			return err
		}
		if _, err := sequence.Next(); err != nil { // an empty Redis rests for a second: better now than at the first request
			a.log.WarnContext(ctx, "no ids yet", "error", err)
		}
		a.ids = sequence
		return nil
	}
	if c.Worker < 0 && c.Source == idgen.FromOrdinal {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("ids.source: ordinal: %w", err)
		}
		if c.Worker, err = idgen.Ordinal(host); err != nil {
			return fmt.Errorf("ids.source: ordinal: %w", err)
		}
	}
	generator, err := idgen.New(c, deps)
	if err != nil {
		return err
	}
	a.ids = generator
	keep := []func(context.Context) error{generator.Tick}
	if c.Worker < 0 {
		lease := idgen.NewLease(generator, a.leases(), c, processName(), a.log)
		if err := lease.Acquire(ctx); err != nil {
			a.log.WarnContext(ctx, "no worker number yet; ids are refused until there is one", "error", err)
		}
		keep = append(keep, lease.Run)
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, len(keep))
	for _, run := range keep {
		go func() { ended <- run(running) }()
	}
	a.endIDs = func() error {
		end()
		var problems []error
		for range keep {
			problems = append(problems, <-ended)
		}
		return errors.Join(problems...)
	}
	return nil
}

// leases are where worker numbers are kept.
func (a *app) leases() idgen.Leases {
	switch a.config.IDs.Source {
	case idgen.FromRedis:
		return idgen.NewRedisLeases(a.redis, a.prefix(), a.config.IDs.LeaseTTL)
	case idgen.FromEtcd:
		return idgen.NewEtcdLeases(a.etcd, a.prefix())
	default:
		return idgen.NewStore(a.meta)
	}
}

// idRefused counts refusals under fixed words.
func (a *app) idRefused(cause error) {
	reason := "other"
	switch {
	case errors.Is(cause, idgen.ErrClock):
		reason = "clock"
	case errors.Is(cause, idgen.ErrNoLease):
		reason = "no_lease"
	case errors.Is(cause, idgen.ErrSaturated):
		reason = "saturated"
	}
	a.metrics.Health.IDRefused(reason)
}

// close gives the worker number back. Ids are refused from then on.
func (a *app) close() error {
	if a.endIDs == nil {
		return nil
	}
	return a.endIDs()
}
