package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/eprod/eprod/internal/errs"
)

// Scan calls fn for every record of a topic that is there as of the call, partition by partition, oldest first; from zero
// means from the beginning. It stops at fn's first error and returns it as it is; other errors are errs.Unavailable. It uses
// no group and leaves nothing behind.
func Scan(ctx context.Context, c Config, dial Dial, topic string, from time.Time, fn func(Message) error) error {
	life, cut := context.WithCancel(ctx)
	defer cut()
	s := settings(life, c, dial, "scan")
	s.Consumer.Return.Errors = true
	s.Consumer.Fetch.Default = 4 << 20
	s.Consumer.MaxWaitTime = 20 * time.Millisecond // there is something until the end; the last fetch has nothing to wait for
	client, err := sarama.NewClient(c.Brokers, s)
	if err != nil {
		return away(ctx, err)
	}
	defer quietly(client)
	name := c.Prefix + topic
	wanted, err := client.Partitions(name)
	if err != nil {
		return away(ctx, fmt.Errorf("partitions of %s: %w", name, err))
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return away(ctx, err)
	}
	defer quietly(consumer)
	for _, p := range wanted {
		start, end, err := bounds(ctx, client, name, p, from)
		if err != nil {
			return away(ctx, err)
		}
		if start >= end {
			continue
		}
		records, err := consumer.ConsumePartition(name, p, start)
		if err != nil {
			return away(ctx, fmt.Errorf("read %s/%d: %w", name, p, err))
		}
		err = drain(ctx, c, records, end, fn)
		quietly(records)
		if err != nil {
			return err
		}
	}
	return nil
}

// drain calls fn for the records before end. A partition that stays silent too long is given up: its records may have been
// deleted meanwhile.
func drain(ctx context.Context, c Config, records sarama.PartitionConsumer, end int64, fn func(Message) error) error {
	silence := 3 * c.ReadTimeout
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case m, ok := <-records.Messages():
			if !ok {
				return away(ctx, closed())
			}
			if m.Offset >= end {
				return nil
			}
			if err := fn(message(m, c.Prefix)); err != nil {
				return err
			}
			if m.Offset == end-1 {
				return nil
			}
			timer.Reset(silence)
		case err, ok := <-records.Errors():
			if ok {
				return away(ctx, err)
			}
			return away(ctx, closed())
		case <-timer.C:
			return away(ctx, fmt.Errorf("no record for %v, at an offset before %d", silence, end))
		case <-ctx.Done():
			return errs.Away("the log", ctx.Err())
		}
	}
}

func closed() error {
	return errors.New("the partition was closed: its records may have been deleted")
}

// bounds returns the first offset to read and the one to stop before.
func bounds(ctx context.Context, client sarama.Client, name string, p int32, from time.Time) (start, end int64, err error) {
	if end, err = offset(ctx, client, name, p, sarama.OffsetNewest); err != nil {
		return 0, 0, err
	}
	at := sarama.OffsetOldest
	if !from.IsZero() {
		at = from.UnixMilli()
	}
	if start, err = offset(ctx, client, name, p, at); err != nil {
		return 0, 0, err
	}
	if start < 0 { // nothing is as young as from
		start = end
	}
	return start, end, nil
}
