package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/study"
)

// invalidationGroup is the consumer group that carries out the cache's deletions.
const invalidationGroup = "cache"

func (p *program) cacheCommand() *cobra.Command {
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Hold the shared cache against the database",
		Long: "Compares what the cache has of every study with the database, removes what is old, and prints both counts.\n" +
			"Exit code 0 means that nothing was old. A running server does the same for a sample, see catalog.verifyEvery.",
		Args: cobra.NoArgs,
	}
	verify.RunE = p.withData(func(cmd *cobra.Command, s *stores) error {
		a, err := newApp(cmd.Context(), s)
		if err != nil {
			return err
		}
		checked, wrong, err := a.verifier().All(cmd.Context())
		fmt.Fprintf(cmd.OutOrStdout(), "%d studies verified, %d were old in the cache\n", checked, wrong)
		if closing := a.close(); err == nil {
			err = closing
		}
		if err == nil && wrong > 0 {
			err = fmt.Errorf("%d studies were old in the cache; they are removed", wrong)
		}
		return err
	})
	cmd := &cobra.Command{Use: "cache", Short: "Look after the shared cache"}
	cmd.AddCommand(verify)
	return cmd
}

func (a *app) verifier() *study.Verifier {
	return &study.Verifier{Studies: &study.Store{Meta: a.meta}, Catalog: a.catalog, Cache: a.designs, Every: a.config.Catalog.VerifyEvery,
		Locks: a.procedures, Meter: a.metrics.Cache, Logger: a.log}
}

// invalidate carries out the cache's deletions from the log until ctx ends.
func (s *server) invalidate(ctx context.Context) error {
	cc := kafka.DefaultConsumerConfig(invalidationGroup, cache.Topic)
	cc.Failing = func(topic string, partition int32, err error) {
		s.log.WarnContext(ctx, "invalidations wait", "topic", topic, "partition", partition, "error", err)
	}
	i := &cache.Invalidator{Cache: s.designs, Logger: s.log}
	return kafka.Consume(ctx, s.kafka, s.dial, cc, i.Handle, s.log)
}
