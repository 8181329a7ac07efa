package lock

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/embedded"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv(pausedChild) != "" { // it is killed
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// place is one back end that the suite runs on.
type place struct {
	open   func(t *testing.T, address string, parts Parts) Locker // what another process would have; address "": the server itself
	forget func(t *testing.T, name string)                        // takes a lock away, with all that the back end knows of it
	server string                                                 // where a proxy can come between; "" where there is no network
	lose   func(holder string) string                             // what is in a request that acquires
	ttl    time.Duration                                          // the shortest that the back end keeps
	early  time.Duration                                          // by which the back end may let go too soon
}

func (p place) locker(t *testing.T, holder string) Locker {
	parts := testParts(holder)
	parts.Config.Timeout = 5 * time.Second // the machine may be busy
	return p.open(t, "", parts)
}

func redisClient(t *testing.T, options *redis.Options) *redis.Client {
	options.ContextTimeoutEnabled, options.MaxRetries, options.DisableIdentity = true, -1, true
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func onRedis(prefix string, options redis.Options, reentrant bool) place {
	open := func(t *testing.T, address string, parts Parts) Locker {
		o := options
		if address != "" {
			o.Addr = address
		}
		if reentrant {
			return NewReentrant(redisClient(t, &o), prefix, parts)
		}
		return NewRedis(redisClient(t, &o), prefix, parts)
	}
	forget := func(t *testing.T, name string) {
		o := options
		key := prefix + "lock:{" + name + "}"
		if reentrant {
			key = prefix + "relock:{" + name + "}"
		}
		if n, err := redisClient(t, &o).Del(t.Context(), key, key+":fence").Result(); err != nil || n != 2 {
			t.Errorf("forgot %d keys: %v", n, err)
		}
	}
	return place{open: open, forget: forget, server: options.Addr, lose: func(holder string) string { return holder }, ttl: 300 * time.Millisecond}
}

func onTable(d *db.DB) place {
	server := ""
	open := func(t *testing.T, address string, parts Parts) Locker {
		return NewTable(testenv.Reopen(t, d, address, db.DefaultConfig(), slog.New(slog.DiscardHandler)), parts)
	}
	forget := func(t *testing.T, name string) {
		err := d.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("DELETE FROM lock_lease WHERE name = ?", name).Error })
		if err != nil {
			t.Error(err)
		}
	}
	return place{open: open, forget: forget, server: server, lose: func(string) string { return "COMMIT" }, ttl: 300 * time.Millisecond}
}

func etcdClient(t *testing.T, address string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func onEtcd(prefix, server string) place {
	open := func(t *testing.T, address string, parts Parts) Locker {
		if address == "" {
			address = server
		}
		return NewEtcd(etcdClient(t, address), prefix, parts)
	}
	forget := func(t *testing.T, name string) {
		if r, err := etcdClient(t, server).Delete(t.Context(), prefix+"lock/"+name); err != nil || r.Deleted != 1 {
			t.Errorf("deleted %v: %v", r, err)
		}
	}
	return place{open: open, forget: forget, server: server, lose: func(holder string) string { return holder }, ttl: time.Second}
}

// places are all back ends that can be had: those without a server always.
func places(t *testing.T) map[string]place {
	t.Helper()
	prefix := fmt.Sprintf("t%d:", time.Now().UnixNano())
	inside := redis.Options{Dialer: embeddedRedis(t).RedisDial}
	plain := onRedis(prefix, inside, false)
	plain.early = 150 * time.Millisecond // its clock ticks every 100 ms
	all := map[string]place{"redis embedded": plain, "re-entrant embedded": onRedis(prefix, inside, true)}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = onRedis(prefix, redis.Options{Addr: address}, false)
		all["re-entrant"] = onRedis(prefix, redis.Options{Addr: address}, true)
	}
	if address, ok := testenv.Etcd(t); ok {
		all["etcd"] = onEtcd(prefix, address)
	}
	for dialect, d := range testenv.Databases(t, "meta") {
		p := onTable(d)
		if d.Dialect == db.MySQL {
			p.server = testenv.Address(t)
		}
		all[dialect] = p
	}
	return all
}

func embeddedRedis(t *testing.T) *embedded.Embedded {
	t.Helper()
	e, err := embedded.Open(t.TempDir(), rand.Reader, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// everywhere runs a test on all back ends at once; each gets a name of its own.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	for name, p := range places(t) {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// by is a caller of its own.
func by(t *testing.T, owner string) context.Context { return WithOwner(t.Context(), owner) }

func acquired(t *testing.T, l Locker, owner, name string, ttl time.Duration, options ...Option) *Lease {
	t.Helper()
	s, err := l.Acquire(by(t, owner), name, ttl, options...)
	if err != nil {
		t.Fatalf("%s: %v", owner, err)
	}
	return s
}

func released(t *testing.T, s *Lease) {
	t.Helper()
	if err := s.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
	if !over(s) {
		t.Error("released, but not done")
	}
}

func refused(t *testing.T, l Locker, owner, name string, holder string) {
	t.Helper()
	s, err := l.Acquire(by(t, owner), name, time.Minute)
	refusal, _ := errs.As(err)
	if s != nil || refusal == nil || refusal.Kind != errs.Conflict || refusal.Code != "locked" || refusal.Members["holder"] != holder {
		t.Errorf("%s got %v %v, want a refusal that names %s", owner, s, err, holder)
		return
	}
	until, err := time.Parse(time.RFC3339Nano, fmt.Sprint(refusal.Members["until"]))
	if left := time.Until(until); err != nil || left < -time.Second || left > 70*time.Second {
		t.Errorf("held until %v: %v", refusal.Members["until"], err)
	}
}
