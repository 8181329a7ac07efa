package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
)

// Topic carries invalidations, at least once and in no promised order.
const Topic = "invalidations"

type invalidation struct {
	Key     string `json:"key"`
	Version int64  `json:"version"`
}

// Invalidation returns the event that removes a key's value of an older version from the cache, to be put into the outbox in
// the transaction that made the version. It is what holds when the writer's own Invalidate is lost.
func Invalidation(id int64, key string, version int64, at time.Time) outbox.Event {
	payload, _ := json.Marshal(invalidation{key, version}) // a string and a number cannot fail
	return outbox.Event{ID: id, Topic: Topic, Type: "cache.invalidate", Payload: payload, At: at}
}

// Invalidator carries out the invalidations of the log. It is safe for concurrent use.
type Invalidator struct {
	Cache  *Gated
	Logger *slog.Logger
}

// Handle carries out a batch. Its error means that Redis does not answer: the batch must come again. A message that is no
// invalidation is logged and passed over, since it can never become one.
func (i *Invalidator) Handle(ctx context.Context, batch []kafka.Message) error {
	for _, m := range batch {
		var v invalidation
		if err := json.Unmarshal(m.Value, &v); err != nil || v.Key == "" || v.Version < 0 {
			i.Logger.ErrorContext(ctx, "not an invalidation", "topic", m.Topic, "partition", m.Partition, "offset", m.Offset)
			continue
		}
		if err := i.Cache.Invalidate(ctx, v.Key, v.Version); err != nil {
			return fmt.Errorf("invalidate: %w", err)
		}
	}
	return nil
}
