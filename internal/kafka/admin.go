package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/eprod/eprod/internal/errs"
)

// Topic is a topic that must exist.
type Topic struct {
	Name   string // without the prefix
	Config map[string]string
}

// EnsureTopics makes what is missing, with the configured partitions and replication. A topic that exists is left as it
// is; its partition count must be the configured one, because the place of a participant follows from it.
func EnsureTopics(ctx context.Context, c Config, dial Dial, topics []Topic) error {
	admin, err := sarama.NewClusterAdmin(c.Brokers, settings(c, dial, "admin"))
	if err != nil {
		return errs.Away("the log", err)
	}
	defer quietly(admin)
	existing, err := admin.ListTopics()
	if err != nil {
		return errs.Away("the log", err)
	}
	for _, t := range topics {
		if ctx.Err() != nil {
			return errs.Away("the log", ctx.Err())
		}
		name := c.Prefix + t.Name
		if have, ok := existing[name]; ok {
			if int(have.NumPartitions) != c.Partitions {
				return fmt.Errorf("topic %s has %d partitions, kafka.partitions is %d: set it to what the topic has", name, have.NumPartitions, c.Partitions)
			}
			continue
		}
		if err := create(admin, c, name, t.Config); err != nil {
			return err
		}
	}
	return nil
}

func create(admin sarama.ClusterAdmin, c Config, name string, config map[string]string) error {
	minimum := strconv.Itoa(c.MinInSync)
	entries := map[string]*string{"min.insync.replicas": &minimum}
	for k, v := range config {
		entries[k] = &v
	}
	err := admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: int32(c.Partitions), ReplicationFactor: int16(c.Replication), ConfigEntries: entries}, false)
	if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return errs.Away("the log", fmt.Errorf("make topic %s: %w", name, err))
	}
	return nil
}

// Scan calls fn for every record of a topic that is there as of the call, partition by partition, oldest first; from zero
// means from the beginning. It stops at fn's first error and returns it.
func Scan(ctx context.Context, c Config, dial Dial, topic string, from time.Time, fn func(Message) error) error {
	s := settings(c, dial, "scan")
	s.Consumer.Return.Errors = true
	client, err := sarama.NewClient(c.Brokers, s)
	if err != nil {
		return errs.Away("the log", err)
	}
	defer quietly(client)
	name := c.Prefix + topic
	partitions, err := client.Partitions(name)
	if err != nil {
		return errs.Away("the log", fmt.Errorf("partitions of %s: %w", name, err))
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return errs.Away("the log", err)
	}
	defer quietly(consumer)
	for _, p := range partitions {
		if err := scanPartition(ctx, client, consumer, c, name, p, from, fn); err != nil {
			return fmt.Errorf("partition %d of %s: %w", p, name, err)
		}
	}
	return nil
}

func scanPartition(ctx context.Context, client sarama.Client, consumer sarama.Consumer, c Config, name string, p int32, from time.Time, fn func(Message) error) error {
	start, end, err := bounds(client, name, p, from)
	if err != nil || start >= end {
		return err
	}
	records, err := consumer.ConsumePartition(name, p, start)
	if err != nil {
		return errs.Away("the log", err)
	}
	defer records.AsyncClose()
	silence := 3 * c.ReadTimeout
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case m := <-records.Messages():
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
		case err := <-records.Errors():
			return errs.Away("the log", err)
		case <-timer.C:
			return errs.Away("the log", fmt.Errorf("no record for %v, at an offset before %d", silence, end))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func bounds(client sarama.Client, name string, p int32, from time.Time) (start, end int64, err error) {
	if end, err = client.GetOffset(name, p, sarama.OffsetNewest); err != nil {
		return 0, 0, errs.Away("the log", err)
	}
	at := sarama.OffsetOldest
	if !from.IsZero() {
		at = from.UnixMilli()
	}
	start, err = client.GetOffset(name, p, at)
	if err != nil {
		return 0, 0, errs.Away("the log", err)
	}
	if start < 0 { // nothing is as young as from
		start = end
	}
	return start, end, nil
}

// Committed returns, per partition of a topic, the offset up to which the group has finished (0 where it has not begun).
func Committed(_ context.Context, c Config, dial Dial, group, topic string) (map[int32]int64, error) {
	admin, err := sarama.NewClusterAdmin(c.Brokers, settings(c, dial, "admin"))
	if err != nil {
		return nil, errs.Away("the log", err)
	}
	defer quietly(admin)
	name := c.Prefix + topic
	described, err := admin.DescribeTopics([]string{name})
	if err != nil || len(described) == 0 {
		return nil, errs.Away("the log", err)
	}
	wanted := make([]int32, 0, len(described[0].Partitions))
	for _, p := range described[0].Partitions {
		wanted = append(wanted, p.ID)
	}
	found, err := admin.ListConsumerGroupOffsets(c.Prefix+group, map[string][]int32{name: wanted})
	if err != nil {
		return nil, errs.Away("the log", err)
	}
	out := make(map[int32]int64, len(wanted))
	for _, p := range wanted {
		block := found.GetBlock(name, p)
		if block != nil && block.Offset > 0 {
			out[p] = block.Offset
		} else {
			out[p] = 0
		}
	}
	return out, nil
}
