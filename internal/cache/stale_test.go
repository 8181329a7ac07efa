package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// reader is what is held against its promise: Gated, and the plain cache-aside that breaks it.
type reader interface {
	Get(ctx context.Context, key string, floor int64, load Load) ([]byte, error)
	Invalidate(ctx context.Context, key string, version int64) error
}

// plain updates, then deletes, and fills what it has loaded: a deletion between load and fill is lost.
type plain struct{ store *Redis }

func (p plain) Get(ctx context.Context, key string, _ int64, load Load) ([]byte, error) {
	if v, ok, err := p.store.Get(ctx, key); ok && err == nil {
		return v, nil
	}
	v, _, err := load(ctx)
	if err == nil {
		_ = p.store.Set(ctx, key, v, time.Hour)
	}
	return v, err
}

func (p plain) Invalidate(ctx context.Context, key string, _ int64) error {
	return p.store.client.Del(ctx, p.store.prefix+key).Err()
}

// shelf is what the readers and writers share: versions in a database, and what was acknowledged to a writer.
type shelf struct {
	d       *db.DB
	keys    []string
	acked   []atomic.Int64 // youngest version that a writer was told of
	cut     []atomic.Int32 // deletions that are still on their way
	relayed chan deletion  // as the outbox does it: until done
	reads   atomic.Int64
	writes  atomic.Int64
	stale   atomic.Int64
	excused atomic.Int64 // older, while a deletion was cut off
}

type deletion struct {
	key     int
	version int64
}

func newShelf(t *testing.T, d *db.DB, keys int) *shelf {
	t.Helper()
	s := &shelf{d: d, acked: make([]atomic.Int64, keys), cut: make([]atomic.Int32, keys), relayed: make(chan deletion, 1<<16)}
	prefix := strconv.FormatInt(time.Now().UnixNano(), 36)
	err := d.Tx(t.Context(), func(tx *gorm.DB) error {
		if err := tx.Exec("CREATE TABLE IF NOT EXISTS doc (id BIGINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL)").Error; err != nil {
			return err
		}
		if err := tx.Exec("DELETE FROM doc").Error; err != nil {
			return err
		}
		for i := range keys {
			s.keys = append(s.keys, prefix+":"+strconv.Itoa(i))
			s.acked[i].Store(1)
			if err := tx.Exec("INSERT INTO doc (id, version) VALUES (?, 1)", i).Error; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shelf) load(key int) Load {
	return func(ctx context.Context) ([]byte, int64, error) {
		var version int64
		err := s.d.Pool().QueryRowContext(ctx, "SELECT version FROM doc WHERE id = "+strconv.Itoa(key)).Scan(&version)
		return strconv.AppendInt(nil, version, 10), version, err
	}
}

// read holds one read against what was acknowledged before it began.
func (s *shelf) read(ctx context.Context, c reader, key int) error {
	floor, cut := s.acked[key].Load(), s.cut[key].Load() > 0
	v, err := c.Get(ctx, s.keys[key], 0, s.load(key))
	if err != nil {
		return err
	}
	got, err := strconv.ParseInt(string(v), 10, 64)
	s.reads.Add(1)
	switch {
	case got >= floor || err != nil:
	case cut || s.cut[key].Load() > 0:
		s.excused.Add(1)
	default:
		s.stale.Add(1)
	}
	return err
}

// write changes a key as a product does: transaction, deletion, acknowledgement; dropped makes the deletion get lost.
func (s *shelf) write(ctx context.Context, c reader, key int, dropped bool) error {
	var version int64
	err := s.d.Tx(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec("UPDATE doc SET version = version + 1 WHERE id = ?", key).Error; err != nil {
			return err
		}
		return tx.Raw("SELECT version FROM doc WHERE id = ?", key).Scan(&version).Error
	})
	if err != nil {
		return err
	}
	s.cut[key].Add(1)
	if dropped || c.Invalidate(ctx, s.keys[key], version) != nil {
		s.relayed <- deletion{key, version}
	} else {
		s.cut[key].Add(-1)
	}
	for was := s.acked[key].Load(); was < version && !s.acked[key].CompareAndSwap(was, version); was = s.acked[key].Load() {
	}
	s.writes.Add(1)
	return nil
}

// relay repeats the deletions that were cut off until they are done, and the channel is closed.
func (s *shelf) relay(ctx context.Context, c reader) {
	for d := range s.relayed {
		for c.Invalidate(ctx, s.keys[d.key], d.version) != nil && ctx.Err() == nil {
		}
		s.cut[d.key].Add(-1)
	}
}

// storm reads and writes with many at once, while Redis loses its memory and falls silent, until there were so many reads and
// writes, or until enough says so.
func (s *shelf) storm(t *testing.T, c reader, trouble func(i int), reads, writes int64, enough func() bool) {
	t.Helper()
	ctx := t.Context()
	var running, relays, troubles sync.WaitGroup
	relays.Go(func() { s.relay(ctx, c) })
	over := make(chan struct{})
	troubles.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			default:
				trouble(i)
			}
		}
	})
	for w := range 12 {
		running.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for n := 0; (s.reads.Load() < reads || s.writes.Load() < writes) && !enough(); n++ {
				key := random.IntN(len(s.keys))
				var err error
				if n%20 == 0 {
					err = s.write(ctx, c, key, random.IntN(50) == 0)
				} else {
					err = s.read(ctx, c, key)
				}
				if err != nil {
					t.Errorf("key %d: %v", key, err)
					return
				}
			}
		})
	}
	running.Wait()
	close(over)
	troubles.Wait()
	close(s.relayed)
	relays.Wait()
}

// TestNeverStale: with the memory of Redis lost, its answers held back and deletions dropped, no read is older than what was
// acknowledged before it began, except while the deletion of that key is cut off; and in the end all are right.
func TestNeverStale(t *testing.T) {
	reads, writes := int64(20_000), int64(1_000)
	if os.Getenv("EPROD_TEST_LONG") != "" {
		reads, writes = 200_000, 10_000
	}
	for name, where := range redisServers(t) {
		for dialect, d := range testenv.Databases(t, "shard") {
			t.Run(name+"/"+dialect, func(t *testing.T) {
				if name == "redis" && dialect == "sqlite" {
					return // the embedded database goes with the embedded cache
				}
				proxy := testenv.NewProxy(t, where)
				store, direct := openRedis(t, proxy.Address()), openRedis(t, where)
				s := newShelf(t, d, 30)
				c := NewGated(store, DefaultConfig(), &tally{})
				s.storm(t, c, func(i int) { upset(t, proxy, direct, i) }, reads, writes, func() bool { return false })
				t.Logf("%d reads, %d writes; %d older while a deletion was cut off, %d stale", s.reads.Load(), s.writes.Load(), s.excused.Load(), s.stale.Load())
				if s.stale.Load() > 0 {
					t.Errorf("%d reads were older than an acknowledged write", s.stale.Load())
				}
				for key := range s.keys {
					if err := s.read(t.Context(), c, key); err != nil || s.stale.Load() > 0 {
						t.Errorf("after the storm, key %d: stale %d, %v", key, s.stale.Load(), err)
					}
				}
			})
		}
	}
}

// TestPlainIsStale: the same storm shows the defect that the turns are there against. If it did not, TestNeverStale would
// prove nothing.
func TestPlainIsStale(t *testing.T) {
	for name, where := range redisServers(t) {
		t.Run(name, func(t *testing.T) {
			proxy := testenv.NewProxy(t, where)
			store, direct := openRedis(t, proxy.Address()), openRedis(t, where)
			s := newShelf(t, testenv.SQLite(t, "shard"), 10)
			s.storm(t, plain{store}, func(i int) { upset(t, proxy, direct, i) }, 2_000_000, 100_000, func() bool { return s.stale.Load() > 0 })
			t.Logf("stale after %d reads", s.reads.Load())
			if s.stale.Load() == 0 {
				t.Errorf("plain deletion was never stale in %d reads", s.reads.Load())
			}
		})
	}
}

// redisServers returns addresses of servers whose memory may be lost: the embedded one, and the real one's last database.
func redisServers(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"embedded": miniredis.RunT(t).Addr()}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = address
	}
	return all
}

func openRedis(t *testing.T, address string) *Redis {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address, DB: 15, ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: 16})
	t.Cleanup(func() { _ = client.Close() })
	return NewRedis(client, "stale:", 250*time.Millisecond)
}

// upset does the next thing that must not matter. It waits for answers and time-outs of Redis, never for a clock.
func upset(t *testing.T, proxy *testenv.Proxy, direct *Redis, i int) {
	ctx := context.Background()
	switch i % 40 {
	case 10, 20, 30:
		if err := direct.client.FlushDB(ctx).Err(); err != nil {
			t.Errorf("flush: %v", err)
		}
	case 39:
		proxy.Silence(true)
		_, _, _ = NewRedis(openDirect(proxy.Address()), "", 100*time.Millisecond).Get(ctx, "x") // ends when its time is over
		proxy.Silence(false)
	default:
		// Between two troubles, so many rounds trips as make a few milliseconds.
		for range 40 {
			_, _, _ = direct.Get(ctx, fmt.Sprint("pause", i))
		}
	}
}

func openDirect(address string) redis.UniversalClient {
	return redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: 1})
}
