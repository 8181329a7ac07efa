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
// partitions run at once. The context outlives a request to stop, so that the batch in hand is finished; a handler must
// return when it ends. The same record may come twice, also after success: what a handler does must be repeatable.
type Handler func(ctx context.Context, batch []Message) error

// ConsumerConfig bounds a consumer. Start from DefaultConsumerConfig.
type ConsumerConfig struct {
	Group          string // without the prefix
	Topics         []string
	MaxRows        int           // messages of one batch
	MaxBytes       int           // bytes of values in one batch; one larger message is a batch of its own
	RetryMin       time.Duration // first pause after a handler's error; it doubles, with jitter
	RetryMax       time.Duration
	HandlerTimeout time.Duration // for one call of the handler; the group waits for it before it gives its partitions away
	// A fetch is answered when the broker has FetchBytes for it, or after FetchWait with what there is. Every answer costs broker and
	// consumer the same whatever is in it, so under load fewer and fuller ones are cheaper; a lone record waits for FetchWait.
	FetchBytes int
	FetchWait  time.Duration

	// Progress, where set, is told after each call of the handler how many records of the partition are not done. The hooks
	// are called from several goroutines at once and must not block.
	Progress func(topic string, partition int32, waiting int64)
	// Failing, where set, is told of each failed call of the handler, and of a partition that cannot be read on.
	Failing func(topic string, partition int32, err error)
}

// DefaultConsumerConfig returns bounds that suit batches for a database.
func DefaultConsumerConfig(group string, topics ...string) ConsumerConfig {
	return ConsumerConfig{Group: group, Topics: topics, MaxRows: 100, MaxBytes: 240 << 10,
		RetryMin: 50 * time.Millisecond, RetryMax: 5 * time.Second, HandlerTimeout: 20 * time.Second,
		FetchBytes: 1, FetchWait: 250 * time.Millisecond}
}

// Validate returns every problem at once.
func (cc ConsumerConfig) Validate() error {
	var problems []error
	if cc.Group == "" || len(cc.Topics) == 0 {
		problems = append(problems, errors.New("consumer: a group and at least one topic must be named"))
	}
	if cc.MaxRows < 1 || cc.MaxBytes < 1 {
		problems = append(problems, fmt.Errorf("consumer: MaxRows %d and MaxBytes %d must be 1 or more", cc.MaxRows, cc.MaxBytes))
	}
	if cc.RetryMin <= 0 || cc.RetryMax < cc.RetryMin {
		problems = append(problems, fmt.Errorf("consumer: RetryMin %v must be above zero and RetryMax %v not below it", cc.RetryMin, cc.RetryMax))
	}
	if cc.HandlerTimeout <= 0 {
		problems = append(problems, fmt.Errorf("consumer: HandlerTimeout %v must be above zero", cc.HandlerTimeout))
	}
	if cc.FetchBytes < 1 || cc.FetchWait < time.Millisecond || cc.FetchWait > 5*time.Second {
		problems = append(problems, fmt.Errorf("consumer: FetchBytes %d must be 1 or more and FetchWait %v from 1ms to 5s", cc.FetchBytes, cc.FetchWait))
	}
	return errors.Join(problems...)
}

const (
	rejoinMin  = 100 * time.Millisecond
	rejoinMax  = 2 * time.Second
	leaveLimit = 5 * time.Second // to commit and to leave the group, after the last batch
)

// Consume joins the group and feeds handler until ctx ends: a new group starts at the oldest record. It survives brokers
// that go away and come back. When ctx ends the batches in hand are finished, their marks committed, and Consume returns
// nil, HandlerTimeout and five seconds later at the latest. It returns an error only for a wrong configuration.
func Consume(ctx context.Context, c Config, dial Dial, cc ConsumerConfig, handler Handler, log *slog.Logger) error {
	if err := cc.Validate(); err != nil {
		return err
	}
	life, cut := context.WithCancel(context.WithoutCancel(ctx)) // of the connections: a batch that is finished is committed
	var guard sync.WaitGroup
	guard.Go(func() {
		select {
		case <-ctx.Done():
			pause(life, cc.HandlerTimeout+leaveLimit)
			cut()
		case <-life.Done():
		}
	})
	defer guard.Wait()
	defer cut()
	g := &group{prefix: c.Prefix, config: cc, handler: handler, log: log}
	settings := cc.settings(life, c, dial)
	wait := rejoinMin
	for ctx.Err() == nil {
		began := time.Now()
		err := g.member(ctx, c, settings)
		if time.Since(began) > 10*rejoinMax {
			wait = rejoinMin
		}
		if ctx.Err() != nil {
			break
		}
		g.tell(ctx, "", -1, err)
		pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, rejoinMax)
	}
	return nil
}

func (cc ConsumerConfig) settings(life context.Context, c Config, dial Dial) *sarama.Config {
	s := settings(life, c, dial, "consumer")
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Offsets.AutoCommit.Enable = true
	s.Consumer.Offsets.AutoCommit.Interval = 500 * time.Millisecond // of marks: a commit in the loop would queue behind the long poll
	s.Consumer.Group.ResetInvalidOffsets = false                    // never jump over records silently
	s.Consumer.Group.Session.Timeout = 10 * time.Second
	s.Consumer.Group.Heartbeat.Interval = 2 * time.Second
	s.Consumer.Group.Rebalance.Timeout = cc.HandlerTimeout + 10*time.Second // members finish their batches first
	s.Consumer.Group.Rebalance.Retry.Backoff = 500 * time.Millisecond
	s.Consumer.MaxProcessingTime = 500 * time.Millisecond // how long a slow partition may hold up the others of its broker, once
	s.Consumer.Retry.Backoff = 500 * time.Millisecond
	s.Consumer.Fetch.Min, s.Consumer.MaxWaitTime = int32(cc.FetchBytes), cc.FetchWait
	s.Consumer.Return.Errors = true
	s.ChannelBufferSize = max(256, 2*cc.MaxRows)
	if l, ok := s.Net.Proxy.Dialer.(*lines); ok {
		l.patience = s.Consumer.Group.Rebalance.Timeout
	}
	return s
}

// ConsumeClaim feeds one partition to the handler until the session ends.
func (g *group) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	b := &batcher{messages: claim.Messages(), rows: g.config.MaxRows, bytes: g.config.MaxBytes}
	for {
		batch := b.next(session.Context())
		if len(batch) == 0 || !g.handle(session, claim, batch) {
			return nil
		}
	}
}

// batcher cuts a partition's records into batches. A batch is what is there: it ends when the channel is empty or a bound
// is reached, never by a timer.
type batcher struct {
	messages    <-chan *sarama.ConsumerMessage
	rows, bytes int
	held        *sarama.ConsumerMessage // did not fit into the last batch
}

// next waits for the next batch; it is empty when the session has ended.
func (b *batcher) next(ctx context.Context) []*sarama.ConsumerMessage {
	first := b.held
	b.held = nil
	if first == nil {
		select {
		case first = <-b.messages: // nil when it is closed
		case <-ctx.Done():
		}
		if first == nil {
			return nil
		}
	}
	batch, size := append(make([]*sarama.ConsumerMessage, 0, min(b.rows, 1+len(b.messages))), first), len(first.Value)
	for len(batch) < b.rows {
		select {
		case m, ok := <-b.messages:
			if !ok {
				return batch
			}
			if size += len(m.Value); size > b.bytes {
				b.held = m
				return batch
			}
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

// handle repeats a batch until it succeeds, then marks it. It reports false when the session ended first: whoever has the
// partition next gets the batch.
func (g *group) handle(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim, batch []*sarama.ConsumerMessage) bool {
	out := make([]Message, len(batch))
	for i, m := range batch {
		out[i] = message(m, g.prefix)
	}
	topic, partition, next := out[0].Topic, claim.Partition(), out[len(out)-1].Offset+1
	for wait := g.config.RetryMin; session.Context().Err() == nil; wait = min(2*wait, g.config.RetryMax) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(session.Context()), g.config.HandlerTimeout)
		err := g.followed(ctx, out)
		cancel()
		done := out[0].Offset
		if err == nil {
			session.MarkOffset(claim.Topic(), partition, next, "")
			done = next
		}
		if g.config.Progress != nil {
			g.config.Progress(topic, partition, max(0, claim.HighWaterMarkOffset()-done))
		}
		if err == nil {
			return true
		}
		if g.config.Failing != nil {
			g.config.Failing(topic, partition, err)
		}
		pause(session.Context(), wait/2+rand.N(wait/2+1))
	}
	return false
}

func message(m *sarama.ConsumerMessage, prefix string) Message {
	out := Message{Topic: strings.TrimPrefix(m.Topic, prefix), Partition: m.Partition, Offset: m.Offset, Value: m.Value, Time: m.Timestamp}
	out.Headers = make([]Header, len(m.Headers))
	for i, h := range m.Headers {
		out.Headers[i] = Header{string(h.Key), h.Value}
	}
	return out
}
