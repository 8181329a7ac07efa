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

// Handler processes consecutive messages of one partition. Nil means that everything in the batch is done: it is marked.
// An error means "not now": nothing is marked, the partition waits, and the same batch comes again. Handlers of different
// partitions run at once. The context outlives a request to stop, so that the batch in hand is finished.
type Handler func(ctx context.Context, batch []Message) error

// ConsumerConfig bounds a consumer.
type ConsumerConfig struct {
	Group          string // without the prefix
	Topics         []string
	MaxRows        int           // messages of one batch
	MaxBytes       int           // bytes of values in one batch; one larger message is a batch of its own
	RetryMin       time.Duration // first pause after a handler's error; it doubles, with jitter
	RetryMax       time.Duration
	HandlerTimeout time.Duration // for one call of the handler; shorter than the group's rebalance time-out of 60 s
	// Progress, where set, is told after each batch how many records of the partition wait behind it.
	Progress func(partition int32, waiting int64)
	// Failing, where set, is told of each failed call of the handler.
	Failing func(partition int32, err error)
}

// DefaultConsumerConfig returns bounds that suit batches for a database.
func DefaultConsumerConfig(group string, topics ...string) ConsumerConfig {
	return ConsumerConfig{Group: group, Topics: topics, MaxRows: 100, MaxBytes: 240 << 10,
		RetryMin: 50 * time.Millisecond, RetryMax: 5 * time.Second, HandlerTimeout: 20 * time.Second}
}

// Consume joins the group and feeds handler until ctx ends: a new group starts at the oldest record. It survives brokers
// that go away and come back. When ctx ends the batches in hand are finished, their marks committed, and Consume returns
// nil.
func Consume(ctx context.Context, c Config, dial Dial, cc ConsumerConfig, handler Handler, log *slog.Logger) error {
	s := settings(c, dial, "consumer")
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Offsets.AutoCommit.Enable = true
	s.Consumer.Offsets.AutoCommit.Interval = 500 * time.Millisecond // of marks: a commit in the loop would queue behind the long poll
	s.Consumer.Group.ResetInvalidOffsets = false                    // never jump over records silently
	s.Consumer.Group.Session.Timeout = 10 * time.Second
	s.Consumer.Group.Heartbeat.Interval = 2 * time.Second
	s.Consumer.Group.Rebalance.Timeout = 60 * time.Second
	s.Consumer.MaxProcessingTime = time.Second
	s.Consumer.MaxWaitTime = 250 * time.Millisecond
	s.Consumer.Return.Errors = true
	s.Net.ReadTimeout = max(c.ReadTimeout, s.Consumer.Group.Rebalance.Timeout+5*time.Second) // a join waits for the others
	s.ChannelBufferSize = max(256, 2*cc.MaxRows)
	topics := make([]string, len(cc.Topics))
	for i, t := range cc.Topics {
		topics[i] = c.Prefix + t
	}
	wait, told := 100*time.Millisecond, false
	for ctx.Err() == nil {
		began := time.Now()
		err := consumeOnce(ctx, c, s, topics, cc, handler, log)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > 30*time.Second {
			wait, told = 100*time.Millisecond, false
		}
		if err != nil && !told {
			log.WarnContext(ctx, "the consumer starts again", "group", cc.Group, "error", err)
			told = true
		}
		pause(ctx, wait)
		wait = min(2*wait, 2*time.Second)
	}
	return nil
}

func consumeOnce(ctx context.Context, c Config, s *sarama.Config, topics []string, cc ConsumerConfig, handler Handler, log *slog.Logger) error {
	group, err := sarama.NewConsumerGroup(c.Brokers, c.Prefix+cc.Group, s)
	if err != nil {
		return fmt.Errorf("join group %s: %w", cc.Group, err)
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		for err := range group.Errors() {
			if errors.Is(err, sarama.ErrOffsetOutOfRange) {
				log.ErrorContext(ctx, "the log no longer has the records at which this group stands: an operator must decide", "group", cc.Group, "error", err)
				continue
			}
			log.DebugContext(ctx, "consumer", "group", cc.Group, "error", err)
		}
	})
	claims := &claims{prefix: c.Prefix, config: cc, handler: handler}
	for ctx.Err() == nil && err == nil {
		err = group.Consume(ctx, topics, claims) // returns at each rebalance
	}
	closeErr := group.Close()
	watching.Wait()
	return errors.Join(err, closeErr)
}

// claims implements sarama's handler of a group session.
type claims struct {
	prefix  string
	config  ConsumerConfig
	handler Handler
}

// Setup implements sarama.ConsumerGroupHandler.
func (*claims) Setup(sarama.ConsumerGroupSession) error { return nil }

// Cleanup implements sarama.ConsumerGroupHandler; the session commits the marks after it.
func (*claims) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim feeds one partition to the handler until the session ends. A batch is what is there: it ends when the
// channel is empty or a bound is reached, never by a timer.
func (c *claims) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	messages := claim.Messages()
	var held *sarama.ConsumerMessage // did not fit into the last batch
	for {
		first := held
		held = nil
		if first == nil {
			var ok bool
			select {
			case first, ok = <-messages:
				if !ok {
					return nil
				}
			case <-session.Context().Done():
				return nil
			}
		}
		batch := []*sarama.ConsumerMessage{first}
		size := len(first.Value)
	fill:
		for len(batch) < c.config.MaxRows {
			select {
			case m, ok := <-messages:
				if !ok {
					break fill
				}
				if size += len(m.Value); size > c.config.MaxBytes {
					held = m
					break fill
				}
				batch = append(batch, m)
			default:
				break fill
			}
		}
		if !c.handle(session, claim, batch) {
			return nil
		}
	}
}

// handle repeats a batch until it succeeds, then marks it. It reports false when the session ended first: another member
// of the group gets the batch.
func (c *claims) handle(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim, batch []*sarama.ConsumerMessage) bool {
	out := make([]Message, len(batch))
	for i, m := range batch {
		out[i] = c.message(m)
	}
	wait := c.config.RetryMin
	for session.Context().Err() == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(session.Context()), c.config.HandlerTimeout)
		err := c.handler(ctx, out)
		cancel()
		if err == nil {
			last := batch[len(batch)-1]
			session.MarkMessage(last, "")
			if c.config.Progress != nil {
				c.config.Progress(claim.Partition(), max(0, claim.HighWaterMarkOffset()-last.Offset-1))
			}
			return true
		}
		if c.config.Failing != nil {
			c.config.Failing(claim.Partition(), err)
		}
		pause(session.Context(), wait/2+rand.N(wait/2+1))
		wait = min(2*wait, c.config.RetryMax)
	}
	return false
}

func (c *claims) message(m *sarama.ConsumerMessage) Message { return message(m, c.prefix) }

func message(m *sarama.ConsumerMessage, prefix string) Message {
	out := Message{Topic: strings.TrimPrefix(m.Topic, prefix), Partition: m.Partition, Offset: m.Offset, Value: m.Value, Time: m.Timestamp}
	out.Headers = make([]Header, len(m.Headers))
	for i, h := range m.Headers {
		out.Headers[i] = Header{string(h.Key), h.Value}
	}
	return out
}
