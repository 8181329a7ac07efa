package kafka

import (
	"context"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/trace"
)

// sentIn makes a message carry the span that sends it, if its trace is kept, and tells the span about it.
func (m *Message) sentIn(ctx context.Context, span trace.Span) {
	span.Set(about("send", m)...)
	traceparent := trace.Header(ctx)
	if traceparent == "" {
		return
	}
	headers := make([]Header, 0, len(m.Headers)+1)
	for _, h := range m.Headers {
		if h.Key != trace.HeaderName {
			headers = append(headers, h)
		}
	}
	m.Headers = append(headers, Header{trace.HeaderName, []byte(traceparent)})
}

func about(operation string, m *Message) []trace.Attr {
	return []trace.Attr{trace.String("messaging.system", "kafka"), trace.String("messaging.operation.type", operation),
		trace.String("messaging.destination.name", m.Topic), trace.Int("messaging.destination.partition.id", int64(m.Partition))}
}

// relayed begins a span for each message that carries a place in a trace, as those of an outbox and of a spool do. The caller's messages stay as
// they are.
func relayed(ctx context.Context, messages []Message) ([]Message, []trace.Span) {
	var spans []trace.Span
	for i := range messages {
		traceparent := messages[i].Traceparent()
		if traceparent == "" {
			continue
		}
		own, span := trace.Continue(ctx, "send "+messages[i].Topic, trace.Producer, traceparent)
		if !span.On() {
			continue
		}
		if spans == nil {
			messages = slices.Clone(messages)
		}
		spans = append(spans, span)
		messages[i].sentIn(own, span)
	}
	return messages, spans
}

// followed calls the handler in a span for each of the batch's messages that carry a place in a trace. A failure is told although none does.
func (g *group) followed(ctx context.Context, batch []Message) error {
	if !trace.Following(ctx) {
		return g.handler(ctx, batch)
	}
	var traceparents []string
	for i := range batch {
		if traceparent := batch[i].Traceparent(); traceparent != "" {
			traceparents = append(traceparents, traceparent)
		}
	}
	name, began := "process "+batch[0].Topic, time.Now()
	facts := append(about("process", &batch[0]), trace.String("messaging.consumer.group.name", g.config.Group),
		trace.Int("messaging.batch.message_count", int64(len(batch))))
	ctx, span := trace.Continue(ctx, name, trace.Consumer, traceparents...)
	span.Set(facts...)
	err := g.handler(ctx, batch)
	span.End(err)
	if err != nil && !span.On() {
		trace.Failure(ctx, name, trace.Consumer, began, err, facts, traceparents...)
	}
	return err
}
