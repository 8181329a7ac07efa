package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
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
func (s shelf) Rules(context.Context, int64, int64) ([]task.Rule, error) {
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
	b.least("burst of 20,000 ids", "bwmarrin/snowflake", median(theirsTook)/median(oursTook), 3.5,
		fmt.Sprintf("%.2f ms against %.2f ms, in packs of 1,000", median(oursTook)*1000, median(theirsTook)*1000))
}
