package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/archive"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/submission"
)

func (p *program) reconcileCommand() *cobra.Command {
	var asJSON bool
	var since time.Duration
	var metricsFile string
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Prove that everything accepted is stored, quarantined or kept as a conflict",
		Long: "Reads the log back and looks for each record's row, per hour and study. Exit code 0 means that nothing is missing;\n" +
			"records that the processor has not reached yet are pending, not missing.",
		Args: cobra.NoArgs,
	}
	cmd.RunE = p.withData(func(cmd *cobra.Command, s *stores) error {
		balances, err := s.reconcile(cmd.Context(), since)
		if err != nil {
			return err
		}
		if asJSON {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"balances": balances})
		} else {
			err = printBalances(cmd, balances)
		}
		if metricsFile != "" {
			err = errors.Join(err, writeBalanceMetrics(metricsFile, balances, time.Now()))
		}
		for _, b := range balances {
			if b.Missing > 0 {
				return errors.Join(err, fmt.Errorf("%d records of study %d in the hour of %s are missing", b.Missing, b.Study, b.Hour.Format(time.RFC3339)))
			}
		}
		return err
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().DurationVar(&since, "since", 0, "only records of this long ago and younger, such as 24h; the whole log without it")
	cmd.Flags().StringVar(&metricsFile, "metrics-file", "", "also write the sums as Prometheus text into this file, for a collector of text files")
	return cmd
}

// writeBalanceMetrics writes what alerts look at. The file appears whole or not at all, since a collector may read it at any moment.
func writeBalanceMetrics(path string, balances []submission.Balance, now time.Time) error {
	missing, pending := 0, 0
	for _, b := range balances {
		missing, pending = missing+b.Missing, pending+b.Pending
	}
	text := "# HELP eprod_reconcile_missing_submissions Accepted submissions without a trace in any table.\n" +
		"# TYPE eprod_reconcile_missing_submissions gauge\n" + fmt.Sprintf("eprod_reconcile_missing_submissions %d\n", missing) +
		"# HELP eprod_reconcile_pending_submissions Accepted submissions that the processor had not reached.\n" +
		"# TYPE eprod_reconcile_pending_submissions gauge\n" + fmt.Sprintf("eprod_reconcile_pending_submissions %d\n", pending) +
		"# HELP eprod_reconcile_completed_timestamp_seconds When the last reconciliation came to its end.\n" +
		"# TYPE eprod_reconcile_completed_timestamp_seconds gauge\n" + fmt.Sprintf("eprod_reconcile_completed_timestamp_seconds %d\n", now.Unix())
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil { // for the collector's account
		return err
	}
	return os.Rename(path+".new", path)
}

func printBalances(cmd *cobra.Command, balances []submission.Balance) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "hour (UTC)\tstudy\taccepted\tstored\tquarantined\tconflict\tlate\tduplicate\tarchived\tpending\tmissing\t")
	for _, b := range balances {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", b.Hour.Format("2006-01-02 15h"), b.Study, b.Accepted, b.Stored, b.Quarantined, b.Conflict, b.Late, b.Duplicate, b.Archived, b.Pending, b.Missing)
	}
	return w.Flush()
}

func (s *stores) reconcile(ctx context.Context, since time.Duration) ([]submission.Balance, error) {
	archived, err := (&archive.Store{Meta: s.meta}).Archived(ctx)
	if err != nil {
		return nil, err
	}
	r := submission.Reconciler{Shards: s.shards, Log: loggedRecords{s, since}, Archived: archived}
	return r.Run(ctx)
}

// loggedRecords reads the topic of submissions.
type loggedRecords struct {
	*stores
	since time.Duration
}

// Scan implements submission.Log.
func (l loggedRecords) Scan(ctx context.Context, fn func(kafka.Message) error) error {
	var from time.Time
	if l.since > 0 {
		from = time.Now().Add(-l.since)
	}
	return kafka.Scan(ctx, l.kafka, l.dial, submission.Topic, from, fn)
}

// Committed implements submission.Log.
func (l loggedRecords) Committed(ctx context.Context) (map[int32]int64, error) {
	return kafka.Committed(ctx, l.kafka, l.dial, processorGroup, submission.Topic)
}
