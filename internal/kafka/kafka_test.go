package kafka_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/eprod/eprod/internal/embedded"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/testenv"
)

const topic = "records"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),       // one for the process, never ends
		goleak.IgnoreAnyFunction("github.com/eapache/go-resiliency/breaker.(*Breaker).timer")) // ends by itself after ten seconds
}

// broker is one implementation of the log, the embedded or the real one, behind a network that a test can disturb.
type broker struct {
	config  kafka.Config
	dial    kafka.Dial
	network *network
}

func brokers(t testing.TB) map[string]broker {
	t.Helper()
	e, err := embedded.Open(t.TempDir(), rand.Reader, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	config := kafka.DefaultConfig()
	config.Partitions = 4
	config.Prefix = fmt.Sprintf("eprod-test-%s-", strings.ToLower(rand.Text()))
	config.DialTimeout, config.ReadTimeout, config.WriteTimeout, config.AckTimeout = time.Second, time.Second, time.Second, 3*time.Second
	all := map[string]broker{"embedded": with(config, e.KafkaBrokers(), e.KafkaDial())}
	if addresses, ok := testenv.Kafka(t); ok {
		all["kafka"] = with(config, addresses, new(net.Dialer).DialContext)
	}
	return all
}

func with(c kafka.Config, addresses []string, dial kafka.Dial) broker {
	c.Brokers = addresses
	n := &network{dial: dial}
	return broker{config: c, dial: n.connect, network: n}
}

// each runs a test on every broker, with an empty topic of its own.
func each(t *testing.T, test func(t *testing.T, b broker)) {
	t.Helper()
	for name, b := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			if err := kafka.EnsureTopics(t.Context(), b.config, b.dial, []kafka.Topic{{Name: topic}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.drop(t) })
			test(t, b)
		})
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// producer runs a producer until the test ends and returns it when it is connected.
func (b broker) producer(t testing.TB) *kafka.Producer {
	t.Helper()
	p := b.starting(t, quiet())
	eventually(t, "the producer is connected", p.Connected)
	return p
}

// starting runs a producer until the test ends.
func (b broker) starting(t testing.TB, log *slog.Logger) *kafka.Producer {
	t.Helper()
	p := kafka.NewProducer(b.config, b.dial, log)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// consume runs a consumer; the returned function stops it and waits until it has drained.
func (b broker) consume(t testing.TB, cc kafka.ConsumerConfig, h kafka.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- kafka.Consume(ctx, b.config, b.dial, cc, h, quiet()) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// fill sends n records, numbered from first and spread over the partitions in turn.
func (b broker) fill(t testing.TB, p *kafka.Producer, first, n int) {
	t.Helper()
	batch := make([]kafka.Message, n)
	for i := range batch {
		batch[i] = kafka.Message{Topic: topic, Partition: int32((first + i) % b.config.Partitions), Value: fmt.Appendf(nil, "r%d", first+i)}
	}
	if err := p.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// scan returns how often each record is in the log.
func (b broker) scan(t testing.TB) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := kafka.Scan(t.Context(), b.config, b.dial, topic, time.Time{}, func(m kafka.Message) error {
		found[string(m.Value)]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (b broker) committed(t testing.TB, group string) map[int32]int64 {
	t.Helper()
	offsets, err := kafka.Committed(t.Context(), b.config, b.dial, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	return offsets
}

func (b broker) ends(t testing.TB) map[int32]int64 {
	t.Helper()
	offsets, err := kafka.Ends(t.Context(), b.config, b.dial, topic)
	if err != nil {
		t.Fatal(err)
	}
	return offsets
}

// eventually polls until ok; what names the condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := kafka.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	bad := kafka.Config{Brokers: []string{"kafka"}, Partitions: 257, MinInSync: 2, Replication: 1, MaxBytes: 1}
	got := strings.Split(bad.Validate().Error(), "\n")
	want := []string{
		"brokers: kafka: must be host:port, such as kafka-1:9092",
		"partitions: 257: must be between 1 and 256, the number of buckets",
		"minInSync: 2: must be between 1 and replication",
		"dialTimeout: 0s: must be above zero, such as 3s",
		"readTimeout: 0s: must be above zero, such as 3s",
		"writeTimeout: 0s: must be above zero, such as 3s",
		"ackTimeout: 0s: must be above zero, such as 3s",
		"maxBuffered: 0: must be 1 or more",
		"maxBytes: 1: must be 1024 or more",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConsumerConfig(t *testing.T) {
	if err := kafka.DefaultConsumerConfig("g", "t").Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if err := (kafka.ConsumerConfig{}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("got %v, want all five problems", err)
	}
	err := kafka.Consume(t.Context(), kafka.DefaultConfig(), nil, kafka.ConsumerConfig{}, nil, quiet())
	if err == nil {
		t.Error("a consumer without a group must not start")
	}
}
