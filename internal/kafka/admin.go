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
	Name   string            // without the prefix
	Config map[string]string // such as retention.ms; only for a topic that is made
}

// EnsureTopics makes what is missing, with the configured partitions and replication. A topic that exists is left as it
// is, and refused where its place of a participant or its durability would be another than the configuration says. After
// nil every topic takes records.
func EnsureTopics(ctx context.Context, c Config, dial Dial, topics []Topic) error {
	return connected(ctx, c, dial, func(client sarama.Client) error {
		admin, err := sarama.NewClusterAdminFromClient(client)
		if err != nil {
			return err
		}
		existing, err := admin.ListTopics()
		if err != nil {
			return err
		}
		for _, t := range topics {
			name := c.Prefix + t.Name
			if have, ok := existing[name]; ok {
				err = suits(admin, c, name, have)
			} else {
				err = create(admin, c, name, t.Config)
			}
			for p := 0; p < c.Partitions && err == nil; p++ {
				_, err = offset(ctx, client, name, int32(p), sarama.OffsetNewest)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// unsuitable is a topic that exists but must not be used.
type unsuitable struct{ reason string }

// Error implements error.
func (u unsuitable) Error() string { return u.reason }

func suits(admin sarama.ClusterAdmin, c Config, name string, have sarama.TopicDetail) error {
	if int(have.NumPartitions) != c.Partitions {
		return unsuitable{fmt.Sprintf("topic %s has %d partitions, kafka.partitions is %d: set it to what the topic has", name, have.NumPartitions, c.Partitions)}
	}
	if int(have.ReplicationFactor) < c.Replication {
		return unsuitable{fmt.Sprintf("topic %s has %d copies, kafka.replication is %d: reassign its partitions, or lower the setting", name, have.ReplicationFactor, c.Replication)}
	}
	resources := []*sarama.ConfigResource{{Type: sarama.TopicResource, Name: name, ConfigNames: []string{minInSync}}}
	results, err := admin.DescribeConfigs(resources, sarama.DescribeConfigsOptions{})
	if err != nil {
		return err
	}
	for _, result := range results {
		if result.ErrorCode != sarama.ErrNoError {
			return fmt.Errorf("settings of topic %s: %w", name, result.ErrorCode)
		}
		for _, e := range result.Configs {
			if n, err := strconv.Atoi(e.Value); e.Name == minInSync && err == nil && n < c.MinInSync {
				return unsuitable{fmt.Sprintf("topic %s acknowledges with %s=%d, kafka.minInSync is %d: alter the topic, or lower the setting", name, minInSync, n, c.MinInSync)}
			}
		}
	}
	return nil
}

const minInSync = "min.insync.replicas"

func create(admin sarama.ClusterAdmin, c Config, name string, config map[string]string) error {
	minimum, largest := strconv.Itoa(c.MinInSync), strconv.Itoa(c.MaxBytes+2*recordOverhead)
	entries := map[string]*string{minInSync: &minimum, "max.message.bytes": &largest}
	for k, v := range config {
		entries[k] = &v
	}
	err := admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: int32(c.Partitions), ReplicationFactor: int16(c.Replication), ConfigEntries: entries}, false)
	if errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return nil // another process was faster
	}
	if err != nil {
		return fmt.Errorf("make topic %s: %w", name, err)
	}
	return nil
}

// Committed returns, per partition of a topic, the offset up to which the group has finished (0 where it has not begun).
func Committed(ctx context.Context, c Config, dial Dial, group, topic string) (map[int32]int64, error) {
	out := map[int32]int64{}
	err := connected(ctx, c, dial, func(client sarama.Client) error {
		wanted, err := client.Partitions(c.Prefix + topic)
		if err != nil {
			return fmt.Errorf("partitions of %s: %w", c.Prefix+topic, err)
		}
		admin, err := sarama.NewClusterAdminFromClient(client)
		if err != nil {
			return err
		}
		found, err := standing(admin, c.Prefix+group, map[string][]int32{c.Prefix + topic: wanted})
		if err != nil {
			return err
		}
		for _, p := range wanted {
			out[p] = max(0, found[place{c.Prefix + topic, p}])
		}
		return nil
	})
	return out, err
}

// place is one partition of a topic, by its name in the cluster.
type place struct {
	topic     string
	partition int32
}

// standing returns the committed offset of a group in each wanted place; where it has none the place is absent.
func standing(admin sarama.ClusterAdmin, group string, wanted map[string][]int32) (map[place]int64, error) {
	found, err := admin.ListConsumerGroupOffsets(group, wanted)
	if err == nil && found.Err != sarama.ErrNoError {
		err = found.Err
	}
	if errors.Is(err, sarama.ErrGroupIDNotFound) {
		return nil, nil // nobody has consumed yet
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s: %w", group, err)
	}
	out := map[place]int64{}
	for topic, list := range wanted {
		for _, p := range list {
			block := found.GetBlock(topic, p)
			if block == nil {
				continue
			}
			if block.Err != sarama.ErrNoError {
				return nil, fmt.Errorf("offset of group %s in %s/%d: %w", group, topic, p, block.Err)
			}
			if block.Offset >= 0 {
				out[place{topic, p}] = block.Offset
			}
		}
	}
	return out, nil
}

// Ends returns, per partition of a topic, the offset that the next record gets.
func Ends(ctx context.Context, c Config, dial Dial, topic string) (map[int32]int64, error) {
	out := map[int32]int64{}
	err := connected(ctx, c, dial, func(client sarama.Client) error {
		wanted, err := client.Partitions(c.Prefix + topic)
		if err != nil {
			return fmt.Errorf("partitions of %s: %w", c.Prefix+topic, err)
		}
		for _, p := range wanted {
			if out[p], err = offset(ctx, client, c.Prefix+topic, p, sarama.OffsetNewest); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// offset asks for an offset of a partition, and again while the partition has no leader: just made, or just moved.
func offset(ctx context.Context, client sarama.Client, topic string, partition int32, at int64) (int64, error) {
	const times, apart = 50, 200 * time.Millisecond
	for n := 1; ; n++ {
		got, err := client.GetOffset(topic, partition, at)
		moving := errors.Is(err, sarama.ErrNotLeaderForPartition) || errors.Is(err, sarama.ErrLeaderNotAvailable) || errors.Is(err, sarama.ErrUnknownTopicOrPartition)
		if err == nil {
			return got, nil
		}
		if !moving || n == times || !pause(ctx, apart) {
			return 0, fmt.Errorf("offset of %s/%d: %w", topic, partition, err)
		}
		_ = client.RefreshMetadata(topic) // the next try tells
	}
}

// connected runs do with a client of its own; its waits for brokers end with ctx.
func connected(ctx context.Context, c Config, dial Dial, do func(sarama.Client) error) error {
	life, cut := context.WithCancel(ctx)
	defer cut()
	client, err := sarama.NewClient(c.Brokers, settings(life, c, dial, "admin"))
	if err != nil {
		return away(ctx, err)
	}
	defer quietly(client)
	if err := do(client); err != nil {
		return away(ctx, err)
	}
	return nil
}

// away names a failed call's cause: the caller's ctx where that has ended.
func away(ctx context.Context, err error) error {
	var refused unsuitable
	if errors.As(err, &refused) {
		return err
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return errs.Away("the log", err)
}
