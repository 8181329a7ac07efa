package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// Group is a consumer group on one topic, both without the prefix.
type Group struct{ Name, Topic string }

// Behind is how far a group is behind on one partition.
type Behind struct {
	Group     Group
	Partition int32
	Next      int64     // offset of the first record that is not finished
	Records   int64     // not finished
	Oldest    time.Time // when the first of them was sent; zero where there is none, or nobody asked
}

// Lag returns how far groups are behind, one entry per partition. For the groups in oldest it also reads the first record that each
// partition waits for, a batch at most. What one group or partition refuses does not hide the others: they come with the error.
func Lag(ctx context.Context, c Config, dial Dial, groups []Group, oldest ...Group) ([]Behind, error) {
	var out []Behind
	err := connected(ctx, c, dial, func(client sarama.Client) error {
		admin, err := sarama.NewClusterAdminFromClient(client)
		if err != nil {
			return err
		}
		var problems []error
		for _, g := range groups {
			list, err := lag(client, admin, c.Prefix, g)
			problems = append(problems, err)
			for _, o := range oldest {
				if o == g {
					problems = append(problems, first(client, c.Prefix, list))
				}
			}
			out = append(out, list...)
		}
		return errors.Join(problems...)
	})
	return out, err
}

func lag(client sarama.Client, admin sarama.ClusterAdmin, prefix string, g Group) ([]Behind, error) {
	topic := prefix + g.Topic
	wanted, err := client.Partitions(topic)
	if err != nil {
		return nil, fmt.Errorf("partitions of %s: %w", topic, err)
	}
	done, err := standing(admin, prefix+g.Name, map[string][]int32{topic: wanted})
	if err != nil {
		return nil, err
	}
	ends, err := edges(client, topic, wanted, sarama.OffsetNewest)
	problems := []error{err}
	var begun []int32 // partitions where the group has finished nothing yet: it starts at the oldest record
	for p := range ends {
		if _, ok := done[place{topic, p}]; !ok {
			begun = append(begun, p)
		}
	}
	starts, err := edges(client, topic, begun, sarama.OffsetOldest)
	problems = append(problems, err)
	out := make([]Behind, 0, len(ends))
	for _, p := range wanted {
		end, known := ends[p]
		at, ok := done[place{topic, p}]
		if !ok {
			at, ok = starts[p]
		}
		if known && ok {
			out = append(out, Behind{Group: g, Partition: p, Records: max(0, end-at), Next: at})
		}
	}
	return out, errors.Join(problems...)
}

// edges asks each leader once for the first or the next offset of its partitions.
func edges(client sarama.Client, topic string, partitions []int32, at int64) (map[int32]int64, error) {
	requests := make(map[*sarama.Broker]*sarama.OffsetRequest)
	var problems []error
	for _, p := range partitions {
		leader, err := client.Leader(topic, p)
		if err != nil {
			problems = append(problems, fmt.Errorf("leader of %s/%d: %w", topic, p, err))
			continue
		}
		if requests[leader] == nil {
			requests[leader] = sarama.NewOffsetRequest(client.Config().Version)
		}
		requests[leader].AddBlock(topic, p, at, 1)
	}
	out := make(map[int32]int64, len(partitions))
	for leader, request := range requests {
		answer, err := leader.GetAvailableOffsets(request)
		if err != nil {
			problems = append(problems, fmt.Errorf("offsets of %s: %w", topic, err))
			continue
		}
		for p, block := range answer.Blocks[topic] {
			if block.Err != sarama.ErrNoError {
				problems = append(problems, fmt.Errorf("offset of %s/%d: %w", topic, p, block.Err))
				continue
			}
			out[p] = block.Offset
		}
	}
	return out, errors.Join(problems...)
}

// first fills in when the first unfinished record of each partition was sent.
func first(client sarama.Client, prefix string, list []Behind) error {
	var problems []error
	for i := range list {
		if b := &list[i]; b.Records > 0 {
			var err error
			b.Oldest, err = sentAt(client, prefix+b.Group.Topic, b.Partition, b.Next)
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// sentAt reads one batch, which is the least that a broker gives, and returns the time of the record at an offset.
func sentAt(client sarama.Client, topic string, partition int32, at int64) (time.Time, error) {
	leader, err := client.Leader(topic, partition)
	if err != nil {
		return time.Time{}, fmt.Errorf("leader of %s/%d: %w", topic, partition, err)
	}
	request := &sarama.FetchRequest{Version: 11, MinBytes: 1, MaxBytes: 1, SessionEpoch: -1}
	request.AddBlock(topic, partition, at, 1, -1)
	answer, err := leader.Fetch(request)
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s/%d: %w", topic, partition, err)
	}
	block := answer.GetBlock(topic, partition)
	if block == nil {
		return time.Time{}, fmt.Errorf("read %s/%d: no answer for the partition", topic, partition)
	}
	if block.Err != sarama.ErrNoError {
		return time.Time{}, fmt.Errorf("read %s/%d: %w", topic, partition, block.Err)
	}
	for _, set := range block.RecordsSet {
		if set.RecordBatch == nil {
			continue
		}
		for _, r := range set.RecordBatch.Records {
			if set.RecordBatch.FirstOffset+r.OffsetDelta >= at {
				return set.RecordBatch.FirstTimestamp.Add(r.TimestampDelta), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("read %s/%d: no record at offset %d", topic, partition, at)
}
