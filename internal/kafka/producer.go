package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/eapache/go-resiliency/breaker"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

const (
	reconnectMin = 100 * time.Millisecond
	reconnectMax = 2 * time.Second
	// waitingBytes bounds the size of all records without an outcome, whatever their number.
	waitingBytes = 256 << 20
)

// Producer sends records and waits for their acknowledgement. One producer serves all senders of a process: while one
// request is under way the next ones gather, which is group commit without a timer.
type Producer struct {
	config  Config
	dial    Dial
	log     *slog.Logger
	records atomic.Int64  // without an outcome
	bytes   atomic.Int64  // of their values and headers
	worn    chan struct{} // told when the route must be replaced

	mu    sync.RWMutex // senders hold it while they hand over a record; Run takes it to change the route
	route *route       // nil without a connection
}

// route is one connected sarama producer and the goroutines that collect its outcomes.
type route struct {
	producer sarama.AsyncProducer
	closing  chan struct{} // closed before it is taken away, so that no sender waits for it any longer
	done     chan struct{} // closed when every record has its outcome
	cut      context.CancelFunc
}

// pending is one record on its way. Its outcome arrives once; nobody may be waiting any more.
type pending struct {
	outcome chan error
	size    int64
}

// NewProducer returns a producer that connects when Run is called. The broker need not be up.
func NewProducer(config Config, dial Dial, log *slog.Logger) *Producer {
	return &Producer{config: config, dial: dial, log: log, worn: make(chan struct{}, 1)}
}

// Send returns nil when all in-sync replicas have the record. Errors are errs.Unavailable (afterwards the record may be in
// the log or not), errs.Overloaded and errs.TooLarge (it is not). The wait ends with ctx, and after AckTimeout at the
// latest. Value and headers must not be changed afterwards, whatever the outcome: a record whose sender has left may still
// be under way. Safe for any number of callers.
func (p *Producer) Send(ctx context.Context, m Message) error {
	if !trace.On(ctx) {
		return p.send(ctx, &m)
	}
	ctx, span := trace.Start(ctx, "send "+m.Topic, trace.Producer)
	m.sentIn(ctx, span)
	err := p.send(ctx, &m)
	span.End(err)
	return err
}

func (p *Producer) send(ctx context.Context, m *Message) error {
	ctx, cancel := within(ctx, p.config.AckTimeout)
	defer cancel()
	w, err := p.enqueue(ctx, m)
	if err != nil {
		return err
	}
	return w.wait(ctx)
}

// Publish is Send for many records at once: nil when all are acknowledged; after an error some may be.
func (p *Producer) Publish(ctx context.Context, messages []Message) error {
	if !trace.Following(ctx) {
		return p.publish(ctx, messages)
	}
	messages, spans := relayed(ctx, messages)
	err := p.publish(ctx, messages)
	for _, span := range spans {
		span.End(err)
	}
	return err
}

func (p *Producer) publish(ctx context.Context, messages []Message) error {
	ctx, cancel := within(ctx, p.config.AckTimeout)
	defer cancel()
	waiting := make([]*pending, 0, len(messages))
	var problem error
	for i := range messages {
		w, err := p.enqueue(ctx, &messages[i])
		if err != nil {
			problem = err
			break
		}
		waiting = append(waiting, w)
	}
	for _, w := range waiting {
		if err := w.wait(ctx); err != nil {
			return errors.Join(problem, err)
		}
	}
	return problem
}

// within bounds ctx, at no cost where it ends sooner anyway.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= limit {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// Connected reports whether a send would be tried now. It is true as well while brokers are away for a moment.
func (p *Producer) Connected() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.route != nil
}

// Waiting returns how many records have no outcome yet.
func (p *Producer) Waiting() int64 { return p.records.Load() }

func (w *pending) wait(ctx context.Context) error {
	select {
	case err := <-w.outcome:
		return err
	case <-ctx.Done():
		return errs.Away("the log", fmt.Errorf("no acknowledgement, outcome unknown: %w", ctx.Err()))
	}
}

func (p *Producer) enqueue(ctx context.Context, m *Message) (*pending, error) {
	size := len(m.Value)
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value)
	}
	if size > p.config.MaxBytes {
		return nil, errs.New(errs.TooLarge, "too_large", fmt.Sprintf("a record has %d bytes, the log takes %d", size, p.config.MaxBytes))
	}
	w := &pending{outcome: make(chan error, 1), size: int64(size)}
	if p.records.Add(1) > int64(p.config.MaxBuffered) || p.bytes.Add(w.size) > waitingBytes {
		p.release(w)
		return nil, errs.New(errs.Overloaded, "overloaded", "too many records wait for the log").WithRetryAfter(time.Second)
	}
	out := &sarama.ProducerMessage{Topic: p.config.Prefix + m.Topic, Partition: m.Partition, Value: sarama.ByteEncoder(m.Value), Metadata: w}
	out.Headers = make([]sarama.RecordHeader, len(m.Headers))
	for i, h := range m.Headers {
		out.Headers[i] = sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value}
	}
	if err := p.hand(ctx, out); err != nil {
		p.release(w)
		return nil, err
	}
	return w, nil
}

// hand gives a record to the current route. The route is not closed while it does.
func (p *Producer) hand(ctx context.Context, out *sarama.ProducerMessage) error {
	for {
		p.mu.RLock()
		r := p.route
		if r == nil {
			p.mu.RUnlock()
			return errs.Away("the log", errors.New("no connection to any broker"))
		}
		select {
		case r.producer.Input() <- out:
			p.mu.RUnlock()
			return nil
		case <-r.closing: // the next one is coming
			p.mu.RUnlock()
		case <-ctx.Done():
			p.mu.RUnlock()
			return errs.Away("the log", ctx.Err())
		}
	}
}

func (p *Producer) release(w *pending) {
	p.records.Add(-1)
	p.bytes.Add(-w.size)
}

// Run connects, reconnects and delivers outcomes until ctx ends; then it flushes what is under way, no longer than
// AckTimeout, and returns nil. Senders are refused as long as there was no connection. A route that is worn out is
// replaced by a connected one and then flushed, so that senders notice nothing.
func (p *Producer) Run(ctx context.Context) error {
	for {
		next := p.reach(ctx)
		if old := p.change(next); old != nil {
			p.flush(ctx, old)
		}
		if next == nil {
			return nil
		}
		began := time.Now()
		select {
		case <-p.worn: // by the route before
		default:
		}
		select {
		case <-ctx.Done():
		case <-p.worn:
			p.log.WarnContext(ctx, "the route to the log is replaced")
			pause(ctx, reconnectMax-time.Since(began)) // whatever keeps wearing it out, not in a hot loop
		}
	}
}

// reach returns a connected route, or nil when ctx has ended.
func (p *Producer) reach(ctx context.Context) *route {
	told := false
	for wait := reconnectMin; ctx.Err() == nil; wait = min(2*wait, reconnectMax) {
		r, err := p.connect(ctx)
		if err == nil {
			if told {
				p.log.InfoContext(ctx, "connected to the log")
			}
			return r
		}
		if !told {
			p.log.WarnContext(ctx, "no connection to the log, trying on", "error", err)
			told = true
		}
		pause(ctx, wait/2+rand.N(wait/2))
	}
	return nil
}

// change sets the route of the senders and returns the one before, which no sender uses any more.
func (p *Producer) change(next *route) *route {
	old := p.route // only Run writes it
	if old != nil {
		close(old.closing)
	}
	p.mu.Lock()
	p.route = next
	p.mu.Unlock()
	return old
}

// flush waits until every record of a route has its outcome. After AckTimeout its connections are cut, which turns what is
// left into errors.
func (p *Producer) flush(ctx context.Context, r *route) {
	r.producer.AsyncClose()
	defer r.cut()
	patience := time.NewTimer(p.config.AckTimeout)
	defer patience.Stop()
	select {
	case <-r.done:
		return
	case <-patience.C:
		r.cut()
	}
	patience.Reset(p.config.AckTimeout)
	select {
	case <-r.done:
	case <-patience.C:
		p.log.ErrorContext(ctx, "a route to the log does not end; its records count as waiting for ever", "records", p.Waiting())
	}
}

// connect opens a route. It lives until it is cut, not until ctx ends: what is under way then is still flushed.
func (p *Producer) connect(ctx context.Context) (*route, error) {
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	abandon := context.AfterFunc(ctx, cut) // while connecting, a stop counts at once
	producer, err := sarama.NewAsyncProducer(p.config.Brokers, p.settings(life))
	if !abandon() && err == nil {
		return nil, errors.Join(ctx.Err(), producer.Close())
	}
	if err != nil {
		cut()
		return nil, err
	}
	r := &route{producer: producer, closing: make(chan struct{}), done: make(chan struct{}), cut: cut}
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
	go func() { outcomes.Wait(); close(r.done) }() // ends with them; flush waits for it
	return r, nil
}

// settle gives a record its outcome.
func (p *Producer) settle(m *sarama.ProducerMessage, err error) {
	w, ok := m.Metadata.(*pending)
	if !ok {
		return
	}
	if err != nil {
		if wearsOut(err) {
			select {
			case p.worn <- struct{}{}:
			default:
			}
		}
		err = errs.Away("the log", err)
	}
	p.release(w)
	w.outcome <- err
}

// wearsOut reports whether a new route does better than the one that gave err: its sequence of records is broken, or sarama
// refuses to ask for the partition's leader for ten seconds although the leader may be back sooner.
func wearsOut(err error) bool {
	for _, fatal := range []error{sarama.ErrOutOfOrderSequenceNumber, sarama.ErrUnknownProducerID, sarama.ErrInvalidProducerEpoch,
		sarama.ErrInvalidProducerIDMapping, sarama.ErrFencedInstancedId, sarama.ErrProducerFenced, breaker.ErrBreakerOpen} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}

func (p *Producer) settings(life context.Context) *sarama.Config {
	s := settings(life, p.config, p.dial, "producer")
	s.Net.MaxOpenRequests = 1 // what idempotence needs
	s.Producer.Idempotent = true
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Timeout = min(p.config.AckTimeout, p.config.ReadTimeout*4/5) // the broker gives up before we stop listening
	s.Producer.MaxMessageBytes = p.config.MaxBytes + recordOverhead
	s.Producer.Partitioner = sarama.NewManualPartitioner
	s.Producer.Compression = sarama.CompressionNone // what is sealed does not compress
	s.Producer.Return.Successes, s.Producer.Return.Errors = true, true
	s.Producer.Retry.Max, s.Producer.Retry.Backoff = 10, 150*time.Millisecond
	s.Producer.Retry.MaxBufferLength = max(4096, 2*p.config.MaxBuffered)
	s.Producer.Retry.MaxBufferBytes = 2 * waitingBytes
	s.Producer.Flush.MaxMessages = 1000
	s.ChannelBufferSize = 1024
	return s
}
