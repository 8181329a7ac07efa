package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/testenv"
)

const insertRows = 20_000

var responseTable = []string{"id", "study_id", "site_id", "participant_id", "task_id", "submission", "sha256", "questionnaire", "version", "status",
	"authored", "zone", "late", "received_at", "stored_at", "source", "sealed_key", "sealed"}

// inserts compares 100-row prepared inserts with LOAD DATA LOCAL of the same rows on a real MySQL, both with one durable
// transaction per 100 rows, as a processor needs them, three times each in turn.
func (b *bench) inserts() {
	d := testenv.MySQL(b.t, os.Getenv("EPROD_TEST_MYSQL_DSN"), "shard")
	sealed, binary := bytes.Repeat([]byte{0xAB}, 2200), bytes.Repeat([]byte{0xCD}, 32)
	id := int64(0)
	row := func() []any {
		id++
		return []any{id, 1, 1, id, id, binary[:16], binary, "https://example.org/q", "1", "completed", "2026-11-23T20:00:00Z", "UTC", 0, 1, 1, "r", 1, sealed}
	}
	insert := func() {
		rows := make([][]any, 100)
		for i := range rows {
			rows[i] = row()
		}
		if err := d.Tx(b.t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "response", responseTable, rows) }); err != nil {
			b.t.Fatal(err)
		}
	}
	load := func() {
		var file bytes.Buffer
		for range 100 {
			for i, v := range row() {
				if i > 0 {
					file.WriteByte('\t')
				}
				if raw, ok := v.([]byte); ok {
					file.Write(raw)
				} else {
					fmt.Fprint(&file, v)
				}
			}
			file.WriteByte('\n')
		}
		mysql.RegisterReaderHandler("rows", func() io.Reader { return &file })
		defer mysql.DeregisterReaderHandler("rows")
		if _, err := d.Pool().ExecContext(b.t.Context(), "LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE response CHARACTER SET binary ("+strings.Join(responseTable, ",")+")"); err != nil {
			b.t.Fatalf("LOAD DATA: %v", err)
		}
	}
	rate := func(batch func()) float64 {
		began := time.Now()
		for range insertRows / 100 {
			batch()
		}
		return insertRows / time.Since(began).Seconds()
	}
	var ours, theirs []float64
	for range 3 {
		ours, theirs = append(ours, rate(insert)), append(theirs, rate(load))
	}
	b.least("insert rows/s", "LOAD DATA LOCAL", median(ours)/median(theirs), 1.5, fmt.Sprintf("%.0f rows/s against %.0f, 100 rows a transaction", median(ours), median(theirs)))
}

// shelf is a study with one published questionnaire, in memory.
type shelf struct{ body []byte }

func (s shelf) ByID(context.Context, int64) (study.Study, error) {
	return study.Study{ID: 1, Status: study.Active}, nil
}
func (s shelf) ByProtocol(context.Context, string) (study.Study, error) { return study.Study{}, nil }
func (s shelf) Sites(context.Context, int64) ([]study.Site, error)      { return nil, nil }
func (s shelf) Arms(context.Context, int64) ([]study.Arm, error)        { return nil, nil }
func (s shelf) Schedules(context.Context, int64) ([]study.ScheduleVersion, error) {
	return nil, nil
}
func (s shelf) Questionnaires(context.Context, int64) ([]study.Questionnaire, error) {
	return []study.Questionnaire{s.version()}, nil
}
func (s shelf) Questionnaire(context.Context, int64) (study.Questionnaire, []byte, error) {
	return s.version(), s.body, nil
}
func (s shelf) version() study.Questionnaire {
	return study.Questionnaire{ID: 2, Study: 1, URL: trialQuestionnaire, Version: "1.0.0", Status: study.Active, SHA256: sha256.Sum256(s.body)}
}
func (s shelf) Fetch(ctx context.Context, _ string, load func(context.Context) ([]byte, error)) ([]byte, error) {
	return load(ctx)
}

func (s shelf) Revision(context.Context, int64) (int64, error) { return 1, nil }
func (s shelf) Get(ctx context.Context, _ string, _ int64, load cache.Load) ([]byte, error) {
	v, _, err := load(ctx)
	return v, err
}
func (s shelf) Invalidate(context.Context, string, int64) error { return nil }

// lookups compares the compiled definition in memory with fetching it from Redis and compiling it.
func (b *bench) lookups() {
	s := shelf{burstQuestionnaire("1.0.0")}
	catalog, err := study.NewCatalog(study.DefaultCatalogConfig(), questionnaire.DefaultLimits(), s, s, s, time.Now)
	if err != nil {
		b.t.Fatal(err)
	}
	warm := testing.Benchmark(func(tb *testing.B) {
		for tb.Loop() {
			if _, err := catalog.Definition(context.Background(), 1, b.tr.canonical); err != nil {
				tb.Fatal(err)
			}
		}
	})
	address, _ := testenv.Redis(b.t)
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	if err := client.Set(b.t.Context(), "eprod-bench", s.body, time.Minute).Err(); err != nil {
		b.t.Fatal(err)
	}
	cold := testing.Benchmark(func(tb *testing.B) {
		for tb.Loop() {
			body, err := client.Get(context.Background(), "eprod-bench").Bytes()
			if err != nil {
				tb.Fatal(err)
			}
			if _, findings := questionnaire.Compile(body, questionnaire.DefaultLimits()); len(findings) > 0 {
				tb.Fatal(findings)
			}
		}
	})
	b.least("definition lookup", "go-redis GET + compile", nanos(cold)/nanos(warm), 500, fmt.Sprintf("%.0f ns against %.0f ns", nanos(warm), nanos(cold)))
}

func nanos(r testing.BenchmarkResult) float64 { return float64(r.T.Nanoseconds()) / float64(r.N) }

// locks compares taking and releasing a lock on Redis with redsync, which has no fence, no holder's name and one server, too.
func (b *bench) locks() {
	address, _ := testenv.Redis(b.t)
	client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true})
	defer client.Close()
	ours := lock.NewRedis(client, "bench:", lock.Parts{Config: lock.DefaultConfig(), Holder: "bench", Clock: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	theirs := redsync.New(goredis.NewPool(client))
	ctx := context.Background()
	own, other := b.duel(400, 9, func() error {
		lease, err := ours.Acquire(ctx, "bench", 10*time.Second)
		if err != nil {
			return err
		}
		return lease.Release(ctx)
	}, func() error {
		m := theirs.NewMutex("bench:redsync", redsync.WithExpiry(10*time.Second))
		if err := m.LockContext(ctx); err != nil {
			return err
		}
		_, err := m.UnlockContext(ctx)
		return err
	})
	b.least("lock + unlock", "redsync", other/own, 1.3, fmt.Sprintf("%.0f µs against %.0f µs", own/1000, other/1000))
}

// duel runs two things n times each, in turn, so many rounds, and returns the median nanoseconds of one.
func (b *bench) duel(n, rounds int, own, other func() error) (ownTook, otherTook float64) {
	took := func(do func() error) float64 {
		began := time.Now()
		for range n {
			if err := do(); err != nil {
				b.t.Fatal(err)
			}
		}
		return float64(time.Since(began).Nanoseconds()) / float64(n)
	}
	var owns, others []float64
	for range rounds {
		owns, others = append(owns, took(own)), append(others, took(other))
		if err := pause(b.t.Context(), 2*time.Millisecond); err != nil { // so that bursts of ids stay below the cap
			b.t.Fatal(err)
		}
	}
	return median(owns), median(others)
}

// limiter compares a bucket leased from Redis in packs with one script call per request.
func (b *bench) limiter() {
	address, _ := testenv.Redis(b.t)
	client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true})
	defer client.Close()
	const rate, burst = 1_000_000, 1_000_000
	prefix := "bench:" + strconv.FormatInt(time.Now().UnixNano(), 36) + ":"
	leased := limit.NewLeased(rate, burst, 1000, limit.LeasedParts{Client: client, Breaker: limit.NewBreaker("bench", limit.DefaultBreakerConfig(), nil), Prefix: prefix,
		Process: "bench", Alone: limit.NewBuckets(rate, burst, 1000, time.Now), OnAlone: func() { b.t.Error("decided without Redis") }, Clock: time.Now})
	each := redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = math.min(tonumber(ARGV[2]), tonumber(kept[1] or ARGV[2]) + (now - tonumber(kept[2] or now)) * ARGV[1] / 1000000)
if left < 1 then return 0 end
redis.call('HSET', KEYS[1], 'left', left - 1, 'at', now)
redis.call('PEXPIRE', KEYS[1], 10000)
return 1`)
	run := func(allow func(ctx context.Context) bool) testing.BenchmarkResult {
		return testing.Benchmark(func(tb *testing.B) {
			for tb.Loop() {
				if !allow(context.Background()) {
					tb.Fatal("refused below the limit")
				}
			}
		})
	}
	own := run(func(ctx context.Context) bool { ok, _ := leased.Allow(ctx, "key"); return ok })
	other := run(func(ctx context.Context) bool {
		n, err := each.Run(ctx, client, []string{prefix + "each"}, rate, burst).Int()
		return err == nil && n == 1
	})
	b.least("distributed limiter", "one script call per request", nanos(other)/nanos(own), 30, fmt.Sprintf("%.0f ns against %.0f ns", nanos(own), nanos(other)))
}

// ids compares bursts of 20,000 ids, and ids asked for at leisure, with bwmarrin/snowflake.
func (b *bench) ids() {
	config := idgen.DefaultConfig()
	config.Worker = 1
	ours, err := idgen.New(config, idgen.Deps{})
	if err != nil {
		b.t.Fatal(err)
	}
	theirs, err := snowflake.NewNode(1)
	if err != nil {
		b.t.Fatal(err)
	}
	const size = 20_000
	var oursTook, theirsTook []float64
	for range 7 {
		began := time.Now()
		for range size / 1000 {
			if _, err := ours.NextN(1000); err != nil {
				b.t.Fatal(err)
			}
		}
		oursTook = append(oursTook, time.Since(began).Seconds())
		began = time.Now()
		for range size {
			theirs.Generate()
		}
		theirsTook = append(theirsTook, time.Since(began).Seconds())
		if err := pause(b.t.Context(), 50*time.Millisecond); err != nil {
			b.t.Fatal(err)
		}
	}
	own, other := b.duel(1000, 301, func() error { _, err := ours.Next(); return err }, func() error { theirs.Generate(); return nil })
	b.least("ids below the cap", "bwmarrin/snowflake", other/own, 0.95, fmt.Sprintf("%.0f ns against %.0f ns", own, other))
	b.least("burst of 20,000 ids", "bwmarrin/snowflake", median(theirsTook)/median(oursTook), 3.5,
		fmt.Sprintf("%.2f ms against %.2f ms, in packs of 1,000", median(oursTook)*1000, median(theirsTook)*1000))
}
