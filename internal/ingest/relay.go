package ingest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/submission"
)

// Publisher makes messages durable in the log: nil means all of them.
type Publisher interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// SpoolRelay hands spooled records to the log once it is back. A record may reach the log twice (the acknowledgement or
// the delete may be lost); the processor stores it once.
type SpoolRelay struct {
	Shards     *db.Shards
	Log        Publisher
	Partitions int
	Config     Config
	Logger     *slog.Logger
}

// Run looks at every shard's spool until ctx ends, and returns when no transaction is open.
func (r *SpoolRelay) Run(ctx context.Context) error {
	var shards sync.WaitGroup
	for _, shard := range r.Shards.All() {
		shards.Go(func() { r.watch(ctx, shard) })
	}
	shards.Wait()
	return nil
}

func (r *SpoolRelay) watch(ctx context.Context, shard *db.DB) {
	tick := time.NewTicker(r.Config.RelayInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.drain(ctx, shard)
		if err != nil && !errors.Is(err, context.Canceled) && !failing {
			r.Logger.WarnContext(ctx, "spool waits", "shard", shard.Name, "error", err)
		}
		failing = err != nil
	}
}

// drain relays batch after batch until the spool is empty or something fails.
func (r *SpoolRelay) drain(ctx context.Context, shard *db.DB) error {
	for ctx.Err() == nil {
		depth, err := submission.SpoolDepth(ctx, shard)
		if err != nil || depth == 0 {
			return err
		}
		sent, err := submission.Relay(ctx, shard, r.Config.RelayBatch, r.send)
		if err != nil {
			return err
		}
		if sent == 0 {
			return nil // another process holds the rest
		}
		r.Logger.InfoContext(ctx, "spool relayed", "shard", shard.Name, "records", sent)
	}
	return ctx.Err()
}

func (r *SpoolRelay) send(ctx context.Context, records []submission.Record) error {
	messages := make([]kafka.Message, len(records))
	for i := range records {
		messages[i] = records[i].Message(submission.Partition(records[i].Participant, r.Partitions))
	}
	return r.Log.Publish(ctx, messages)
}
