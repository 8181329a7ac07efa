package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// group is this process as a member of a consumer group. It implements sarama's handler of a group session.
type group struct {
	prefix  string
	config  ConsumerConfig
	handler Handler
	log     *slog.Logger
	client  sarama.Client // of the current membership

	mu   sync.Mutex
	told map[string]time.Time // when each trouble was logged last
}

// memberTries is how many failures in a row a membership survives. A new one is a stranger to the group, which first waits
// for the old one until its session has run out.
const memberTries = 30

// member joins the group with a client of its own and serves until ctx ends or its tries do.
func (g *group) member(ctx context.Context, c Config, s *sarama.Config) error {
	client, err := sarama.NewClient(c.Brokers, s)
	if err != nil {
		return fmt.Errorf("reach the group: %w", err)
	}
	defer quietly(client)
	joined, err := sarama.NewConsumerGroupFromClient(c.Prefix+g.config.Group, client)
	if err != nil {
		return fmt.Errorf("reach the group: %w", err)
	}
	g.client = client
	var watching sync.WaitGroup
	watching.Go(func() {
		for err := range joined.Errors() {
			var at *sarama.ConsumerError
			if errors.As(err, &at) {
				g.tell(ctx, at.Topic, at.Partition, at.Err)
			} else {
				g.tell(ctx, "", -1, err)
			}
		}
	})
	topics := make([]string, len(g.config.Topics))
	for i, t := range g.config.Topics {
		topics[i] = c.Prefix + t
	}
	wait, failures := rejoinMin, 0
	for ctx.Err() == nil && failures < memberTries {
		began := time.Now()
		err = joined.Consume(ctx, topics, g) // returns at each rebalance
		if err == nil {
			failures = 0
		} else {
			failures++
			g.tell(ctx, "", -1, err)
		}
		if time.Since(began) > rejoinMax {
			wait = rejoinMin
		}
		if err != nil || time.Since(began) < rejoinMax { // a partition that cannot be read ends each session at once
			pause(ctx, wait/2+rand.N(wait/2))
			wait = min(2*wait, rejoinMax)
		}
	}
	closeErr := joined.Close()
	watching.Wait()
	return errors.Join(err, closeErr)
}

// tell logs trouble, each kind once in a while. It skips what is part of stopping.
func (g *group) tell(ctx context.Context, topic string, partition int32, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	const often = 30 * time.Second
	kind := fmt.Sprintf("%s/%d %v", topic, partition, err)
	g.mu.Lock()
	last, known := g.told[kind]
	if known = known && time.Since(last) < often; !known {
		if g.told == nil || len(g.told) > 100 {
			g.told = map[string]time.Time{}
		}
		g.told[kind] = time.Now()
	}
	g.mu.Unlock()
	if !known {
		g.log.WarnContext(ctx, "the consumer tries on", "group", g.config.Group, "topic", strings.TrimPrefix(topic, g.prefix), "partition", partition, "error", err)
	}
}

// Setup implements sarama.ConsumerGroupHandler. It takes partitions whose next record is lost out of the session's claims
// before they are started: sarama ends the whole session for one of them, which would stop the others as well.
func (g *group) Setup(session sarama.ConsumerGroupSession) error {
	claims := session.Claims()
	admin, err := sarama.NewClusterAdminFromClient(g.client)
	if err != nil {
		return fmt.Errorf("check the group's offsets: %w", err)
	}
	stands, err := standing(admin, g.prefix+g.config.Group, claims)
	if err != nil {
		return fmt.Errorf("check the group's offsets: %w", err)
	}
	for topic, partitions := range claims {
		kept := make([]int32, 0, len(partitions))
		for _, p := range partitions {
			at, begun := stands[place{topic, p}]
			if !begun { // it starts at the oldest record
				kept = append(kept, p)
				continue
			}
			oldest, newest, err := g.extent(session.Context(), topic, p)
			if err != nil {
				return fmt.Errorf("check the group's offsets: %w", err)
			}
			if at >= oldest && at <= newest {
				kept = append(kept, p)
				continue
			}
			g.lost(session.Context(), topic, p, at, oldest, newest)
		}
		claims[topic] = kept
	}
	return nil
}

func (g *group) extent(ctx context.Context, topic string, partition int32) (oldest, newest int64, err error) {
	if oldest, err = offset(ctx, g.client, topic, partition, sarama.OffsetOldest); err != nil {
		return 0, 0, err
	}
	newest, err = offset(ctx, g.client, topic, partition, sarama.OffsetNewest)
	return oldest, newest, err
}

// lost raises the alarm for a partition that cannot be read on. Going on at another offset would drop records silently.
func (g *group) lost(ctx context.Context, topic string, partition int32, stands, oldest, newest int64) {
	topic = strings.TrimPrefix(topic, g.prefix)
	err := fmt.Errorf("group %s stands at offset %d of %s/%d, and the log has %d to %d (deleted by its retention, or the log was cut): "+
		"nothing is skipped; find out what is missing, stop the group and set its offset by hand", g.config.Group, stands, topic, partition, oldest, newest)
	g.log.ErrorContext(ctx, "a partition cannot be read on", "group", g.config.Group, "topic", topic, "partition", partition, "error", err)
	if g.config.Progress != nil {
		g.config.Progress(topic, partition, max(1, newest-stands))
	}
	if g.config.Failing != nil {
		g.config.Failing(topic, partition, err)
	}
}

// Cleanup implements sarama.ConsumerGroupHandler; the session commits the marks after it.
func (*group) Cleanup(sarama.ConsumerGroupSession) error { return nil }
