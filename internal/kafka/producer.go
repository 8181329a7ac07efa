package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/eprod/eprod/internal/errs"
)

// Producer sends records and waits for their acknowledgement. One producer serves all senders of a process: while one
// request is under way the next ones gather, which is group commit without a timer.
type Producer struct {
	config Config
	dial   Dial
	log    *slog.Logger
	slots  chan struct{} // one per record without an outcome

	mu      sync.RWMutex // readers send into current; the writer replaces it
	current sarama.AsyncProducer
	failed  chan struct{} // told when current must be replaced
}

// pending is one record on its way. Its outcome arrives once; nobody may be waiting any more.
type pending struct{ outcome chan error }

// NewProducer returns a producer that connects when Run is called. The broker need not be up.
func NewProducer(config Config, dial Dial, log *slog.Logger) *Producer {
	return &Producer{config: config, dial: dial, log: log, slots: make(chan struct{}, config.MaxBuffered), failed: make(chan struct{}, 1)}
}

// Send returns nil when all in-sync replicas have the record. Every error is errs.Unavailable or errs.Overloaded; after
// Unavailable the record may be in the log or not. The wait ends with ctx and after AckTimeout at the latest. The value
// must not be changed afterwards, whatever the outcome. Safe for any number of callers.
func (p *Producer) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.AckTimeout)
	defer cancel()
	w, err := p.enqueue(ctx, m)
	if err != nil {
		return err
	}
	return w.wait(ctx)
}

// Publish is Send for many records at once: nil when all are acknowledged.
func (p *Producer) Publish(ctx context.Context, messages []Message) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.AckTimeout)
	defer cancel()
	waiting := make([]*pending, 0, len(messages))
	var problems []error
	for _, m := range messages {
		w, err := p.enqueue(ctx, m)
		if err != nil {
			problems = append(problems, err)
			break
		}
		waiting = append(waiting, w)
	}
	for _, w := range waiting {
		if err := w.wait(ctx); err != nil {
			problems = append(problems, err)
			break
		}
	}
	return errors.Join(problems...)
}

func (w *pending) wait(ctx context.Context) error {
	select {
	case err := <-w.outcome:
		return err
	case <-ctx.Done():
		return errs.Away("the log", fmt.Errorf("no acknowledgement, outcome unknown: %w", ctx.Err()))
	}
}

func (p *Producer) enqueue(ctx context.Context, m Message) (*pending, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, errs.New(errs.Overloaded, "overloaded", "too many records wait for the log").WithRetryAfter(time.Second)
	}
	w := &pending{outcome: make(chan error, 1)}
	out := &sarama.ProducerMessage{Topic: p.config.Prefix + m.Topic, Partition: m.Partition, Value: sarama.ByteEncoder(m.Value), Metadata: w}
	out.Headers = make([]sarama.RecordHeader, len(m.Headers))
	for i, h := range m.Headers {
		out.Headers[i] = sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value}
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.current == nil {
		<-p.slots
		return nil, errs.Away("the log", errors.New("no connection to any broker"))
	}
	select {
	case p.current.Input() <- out:
		return w, nil
	case <-ctx.Done():
		<-p.slots
		return nil, errs.Away("the log", ctx.Err())
	}
}

// Run connects, reconnects and delivers outcomes until ctx ends; then it flushes what is under way, no longer than
// AckTimeout, and returns. Senders are refused as long as there is no connection.
func (p *Producer) Run(ctx context.Context) error {
	wait, told := 100*time.Millisecond, false
	for ctx.Err() == nil {
		producer, err := p.connect()
		if err != nil {
			if !told {
				p.log.WarnContext(ctx, "no connection to the log", "error", err)
			}
			told = true
			pause(ctx, wait)
			wait = min(2*wait, 2*time.Second)
			continue
		}
		if told {
			p.log.InfoContext(ctx, "connected to the log")
		}
		wait, told = 100*time.Millisecond, false
		p.serve(ctx, producer)
	}
	return nil
}

// serve hands a connected producer to the senders until ctx ends or it must be replaced, and waits for its last outcome.
func (p *Producer) serve(ctx context.Context, producer sarama.AsyncProducer) {
	select {
	case <-p.failed: // of the one before
	default:
	}
	var outcomes sync.WaitGroup
	outcomes.Go(func() {
		for m := range producer.Successes() {
			p.settle(m, nil)
		}
	})
	outcomes.Go(func() {
		for e := range producer.Errors() {
			p.settle(e.Msg, e.Err)
		}
	})
	p.mu.Lock()
	p.current = producer
	p.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-p.failed:
		p.log.WarnContext(ctx, "the producer is replaced: its sequence of records is broken")
	}
	p.mu.Lock()
	p.current = nil
	p.mu.Unlock()
	producer.AsyncClose() // flushes; both channels close afterwards, and every record has its outcome by then
	outcomes.Wait()
}

func (p *Producer) settle(m *sarama.ProducerMessage, err error) {
	<-p.slots
	w, ok := m.Metadata.(*pending)
	if !ok {
		return
	}
	if err != nil {
		if broken(err) {
			select {
			case p.failed <- struct{}{}:
			default:
			}
		}
		err = errs.Away("the log", err)
	}
	w.outcome <- err
}

// broken reports whether an idempotent producer can send nothing more after err.
func broken(err error) bool {
	for _, fatal := range []error{sarama.ErrOutOfOrderSequenceNumber, sarama.ErrUnknownProducerID, sarama.ErrInvalidProducerEpoch,
		sarama.ErrInvalidProducerIDMapping, sarama.ErrFencedInstancedId, sarama.ErrProducerFenced} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}

func (p *Producer) connect() (sarama.AsyncProducer, error) {
	s := settings(p.config, p.dial, "producer")
	s.Net.MaxOpenRequests = 1 // what idempotence needs
	s.Producer.Idempotent = true
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Timeout = p.config.AckTimeout
	s.Producer.MaxMessageBytes = p.config.MaxBytes
	s.Producer.Partitioner = sarama.NewManualPartitioner
	s.Producer.Compression = sarama.CompressionNone // what is sealed does not compress
	s.Producer.Return.Successes, s.Producer.Return.Errors = true, true
	s.Producer.Retry.Max, s.Producer.Retry.Backoff = 5, 100*time.Millisecond
	s.Producer.Retry.MaxBufferLength = max(4096, 2*p.config.MaxBuffered)
	s.Producer.Retry.MaxBufferBytes = 512 << 20
	s.Producer.Flush.MaxMessages = 1000
	s.ChannelBufferSize = 1024
	return sarama.NewAsyncProducer(p.config.Brokers, s)
}
