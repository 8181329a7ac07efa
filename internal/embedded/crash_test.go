package embedded_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eprod/eprod/internal/embedded"
	"github.com/eprod/eprod/internal/kafka"
)

const (
	childArgument = "store-and-tell" // makes the test binary run child
	fullDisk      = "full-disk"
	topic         = "records"
	group         = "readers"
)

func settings(e *embedded.Embedded) kafka.Config {
	c := kafka.DefaultConfig()
	c.Brokers, c.Partitions = e.KafkaBrokers(), embedded.Partitions
	return c
}

// child opens a data folder, stores records and consumes them, and says on its standard output what was acknowledged and
// what was committed, until it is killed. With a full disk it says "refused" at the first send that fails, and ends.
func child(dir, mode string) error {
	quiet := slog.New(slog.DiscardHandler)
	e, err := embedded.Open(dir, rand.Reader, quiet)
	if err != nil {
		return err
	}
	ctx, c := context.Background(), settings(e)
	if err := kafka.EnsureTopics(ctx, c, e.KafkaDial(), []kafka.Topic{{Name: topic}}); err != nil {
		return err
	}
	p := kafka.NewProducer(c, e.KafkaDial(), quiet)
	go func() { _ = p.Run(ctx) }()
	if mode == fullDisk {
		signal.Ignore(unix.SIGXFSZ) // a write beyond the limit fails, as on a full disk
		const most = 300 << 10
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return err
		}
	} else {
		go func() {
			_ = kafka.Consume(ctx, c, e.KafkaDial(), kafka.DefaultConsumerConfig(group, topic), func(context.Context, []kafka.Message) error { return nil }, quiet)
		}()
		go tellCommitted(ctx, e)
	}
	return store(ctx, p, mode)
}

func tellCommitted(ctx context.Context, e *embedded.Embedded) {
	for ctx.Err() == nil {
		offsets, err := kafka.Committed(ctx, settings(e), e.KafkaDial(), group, topic)
		if err != nil {
			continue
		}
		for partition, offset := range offsets {
			fmt.Printf("committed %d %d\n", partition, offset)
		}
	}
}

func store(ctx context.Context, p *kafka.Producer, mode string) error {
	var id atomic.Int64
	var senders sync.WaitGroup
	for range 32 {
		senders.Go(func() {
			for {
				n := id.Add(1)
				value := fmt.Appendf(make([]byte, 0, 600), "%s/%d %s", mode, n, strings.Repeat("x", 500))
				err := p.Send(ctx, kafka.Message{Topic: topic, Partition: int32(n % embedded.Partitions), Value: value})
				switch {
				case err == nil:
					fmt.Printf("acknowledged %s/%d\n", mode, n)
				case p.Connected() && mode == fullDisk:
					fmt.Printf("refused %d\n", n)
					return
				}
			}
		})
	}
	senders.Wait()
	return nil
}

// outcome is what a child said.
type outcome struct {
	acknowledged map[string]bool
	committed    map[int32]int64
	refused      int
}

// runChild runs a child on dir until enough says so or the child ends; then it is killed.
func runChild(t *testing.T, dir, mode string, enough func(outcome) bool) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.CommandContext(ctx, self, childArgument, dir, mode)
	process.Stderr = os.Stderr
	said, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	o, killed := outcome{acknowledged: map[string]bool{}, committed: map[int32]int64{}}, false
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		var id string
		var partition int32
		var offset int64
		if n, _ := fmt.Sscanf(lines.Text(), "acknowledged %s", &id); n == 1 {
			o.acknowledged[id] = true
		} else if n, _ := fmt.Sscanf(lines.Text(), "committed %d %d", &partition, &offset); n == 2 {
			o.committed[partition] = max(o.committed[partition], offset)
		} else if strings.HasPrefix(lines.Text(), "refused") {
			o.refused++
		} else {
			t.Logf("not understood, the child was cut off in it: %q", lines.Text())
		}
		if !killed && enough(o) {
			if err := process.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	var exit *exec.ExitError
	if err := process.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("the child did not get far enough in time: %d acknowledged, committed %v", len(o.acknowledged), o.committed)
	}
	return o
}

// stored opens the folder again and returns how often each record is there.
func stored(t *testing.T, e *embedded.Embedded) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := kafka.Scan(t.Context(), settings(e), e.KafkaDial(), topic, time.Time{}, func(m kafka.Message) error {
		id, _, _ := strings.Cut(string(m.Value), " ")
		found[id]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKilled: whatever was acknowledged or committed before a SIGKILL is there when the folder is opened again, once, over
// several lives of one folder.
func TestKilled(t *testing.T) {
	dir, before := t.TempDir(), int64(0)
	for life := range 3 {
		o := runChild(t, dir, fmt.Sprintf("life-%d", life), func(o outcome) bool {
			return len(o.acknowledged) > 1000 && total(o.committed) > before+500
		})
		e, err := embedded.Open(dir, rand.Reader, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		found := stored(t, e)
		for id := range o.acknowledged {
			if found[id] == 0 {
				t.Errorf("life %d: record %s was acknowledged and is lost", life, id)
			}
		}
		offsets, err := kafka.Committed(t.Context(), settings(e), e.KafkaDial(), group, topic)
		if err != nil {
			t.Fatal(err)
		}
		for partition, offset := range o.committed {
			if offsets[partition] < offset {
				t.Errorf("life %d: partition %d stands at %d, %d was committed", life, partition, offsets[partition], offset)
			}
		}
		before = total(offsets)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("life %d: %d acknowledged, committed %v", life, len(o.acknowledged), o.committed)
	}
}

func total(offsets map[int32]int64) int64 {
	sum := int64(0)
	for _, offset := range offsets {
		sum += offset
	}
	return sum
}

// TestFullDisk: a record that cannot be written is not acknowledged, and what was acknowledged before stays.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	o := runChild(t, dir, fullDisk, func(outcome) bool { return false })
	if o.refused == 0 || len(o.acknowledged) == 0 {
		t.Fatalf("%d acknowledged, %d refused: want some of both", len(o.acknowledged), o.refused)
	}
	found := stored(t, open(t, dir))
	for id := range o.acknowledged {
		if found[id] == 0 {
			t.Errorf("record %s was acknowledged and is lost", id)
		}
	}
}
