package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

// TestLag: per partition what a group has not finished, and when the first of it was sent; one group that cannot be read hides nobody.
func TestLag(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		group := kafka.Group{Name: "late", Topic: topic}
		lag := func() (records map[int32]int64, oldest time.Time) {
			t.Helper()
			list, err := kafka.Lag(t.Context(), b.config, b.dial, []kafka.Group{group}, group)
			if err != nil {
				t.Fatal(err)
			}
			records = make(map[int32]int64)
			for _, one := range list {
				records[one.Partition] = one.Records
				if one.Oldest.IsZero() != (one.Records == 0) {
					t.Errorf("%+v", one)
				}
				if one.Records > 0 && (oldest.IsZero() || one.Oldest.Before(oldest)) {
					oldest = one.Oldest
				}
			}
			return records, oldest
		}
		if got, _ := lag(); !cmp.Equal(got, map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0}) {
			t.Errorf("an empty topic: %v", got)
		}
		p := b.producer(t)
		began := time.Now().Add(-time.Second)
		b.fill(t, p, 0, 6)
		between := time.Now().Add(time.Millisecond)
		if got, oldest := lag(); !cmp.Equal(got, map[int32]int64{0: 2, 1: 2, 2: 1, 3: 1}) || oldest.Before(began) || oldest.After(between) {
			t.Errorf("%v, the oldest of %v", got, oldest)
		}
		stop := b.consume(t, kafka.DefaultConsumerConfig(group.Name, topic), func(context.Context, []kafka.Message) error { return nil })
		eventually(t, "everything is committed", func() bool {
			got, _ := lag()
			return cmp.Equal(got, map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0})
		})
		stop()
		later := time.Now().Add(-time.Millisecond).Truncate(time.Millisecond)
		b.fill(t, p, 6, 4)
		if got, oldest := lag(); !cmp.Equal(got, map[int32]int64{0: 1, 1: 1, 2: 1, 3: 1}) || oldest.Before(later) {
			t.Errorf("%v, the oldest of %v, sent from %v on", got, oldest, later)
		}
		list, err := kafka.Lag(t.Context(), b.config, b.dial, []kafka.Group{{Name: "late", Topic: "nowhere"}, group})
		if errs.KindOf(err) != errs.Unavailable || len(list) != 4 {
			t.Errorf("beside an unknown topic: %d partitions, %v", len(list), err)
		}
	})
}
