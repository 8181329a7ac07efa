package kafka_test

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/kafka"
)

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkSend sends 2.2 KB records from 256 senders, each waiting for its acknowledgement. With the embedded broker its
// work counts as ours.
func BenchmarkSend(b *testing.B) {
	for name, l := range brokers(b) {
		b.Run(name, func(b *testing.B) {
			l.network = nil
			if err := kafka.EnsureTopics(b.Context(), l.config, l.dial, []kafka.Topic{{Name: topic}}); err != nil {
				b.Fatal(err)
			}
			p := l.producer(b)
			value := make([]byte, 2200)
			var next atomic.Int64
			var senders sync.WaitGroup
			before := cpu(b)
			b.ResetTimer()
			for range 256 {
				senders.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						m := kafka.Message{Topic: topic, Partition: int32(n % int64(l.config.Partitions)), Value: value}
						if err := p.Send(context.Background(), m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			senders.Wait()
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkConsume reads 2.2 KB records through a group.
func BenchmarkConsume(b *testing.B) {
	for name, l := range brokers(b) {
		b.Run(name, func(b *testing.B) {
			if err := kafka.EnsureTopics(b.Context(), l.config, l.dial, []kafka.Topic{{Name: topic}}); err != nil {
				b.Fatal(err)
			}
			p := l.producer(b)
			value := make([]byte, 2200)
			for sent := 0; sent < b.N; {
				batch := make([]kafka.Message, 0, 5000)
				for ; len(batch) < cap(batch) && sent < b.N; sent++ {
					batch = append(batch, kafka.Message{Topic: topic, Partition: int32(sent % l.config.Partitions), Value: value})
				}
				if err := p.Publish(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			var handled atomic.Int64
			done := make(chan struct{})
			before := cpu(b)
			b.ResetTimer()
			stop := l.consume(b, kafka.DefaultConsumerConfig("g", topic), func(_ context.Context, batch []kafka.Message) error {
				if handled.Add(int64(len(batch))) == int64(b.N) {
					close(done)
				}
				return nil
			})
			<-done
			b.StopTimer()
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			stop()
		})
	}
}
