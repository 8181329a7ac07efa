package lock

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/redis/go-redis/v9"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// pausedChild describes what a child process of TestPauses does, as race.String writes it.
const pausedChild = "EPROD_TEST_PAUSED"

// race is a number in the real MySQL that a holder and its rival both increase under a lock.
type race struct {
	backend  string
	prefix   string
	database string
	lane     int // row and lock; lanes run at once
	ttl      time.Duration
	fenced   bool
}

func (r race) String() string {
	return strings.Join([]string{r.backend, r.prefix, r.database, strconv.Itoa(r.lane), r.ttl.String(), strconv.FormatBool(r.fenced)}, "|")
}

func parseRace(t *testing.T, text string) race {
	part := strings.Split(text, "|")
	if len(part) != 6 {
		t.Fatalf("%s=%q", pausedChild, text)
	}
	lane, errLane := strconv.Atoi(part[3])
	ttl, errTTL := time.ParseDuration(part[4])
	if errLane != nil || errTTL != nil {
		t.Fatalf("%s=%q", pausedChild, text)
	}
	return race{backend: part[0], prefix: part[1], database: part[2], lane: lane, ttl: ttl, fenced: part[5] == "true"}
}

func (r race) name() string { return fmt.Sprintf("lane-%d", r.lane) }

// locker returns the back end's locks; ok is false where its server does not run.
func (r race) locker(t *testing.T, d *db.DB) (l Locker, ok bool) {
	address := ""
	parts := testParts(fmt.Sprintf("pid %d", os.Getpid()))
	parts.Config.Timeout, parts.Config.Tries = 2*time.Second, 3 // many processes share few cores
	switch r.backend {
	case "redis", "re-entrant":
		if address, ok = testenv.Redis(t); !ok {
			return nil, false
		}
		client := redisClient(t, &redis.Options{Addr: address})
		if r.backend == "redis" {
			return NewRedis(client, r.prefix, parts), true
		}
		return NewReentrant(client, r.prefix, parts), true
	case "etcd":
		if address, ok = testenv.Etcd(t); !ok {
			return nil, false
		}
		return NewEtcd(etcdClient(t, address), r.prefix, parts), true
	default:
		return NewTable(d, parts), true
	}
}

// read gets the number, as a holder does before it changes it.
func (r race) read(ctx context.Context, d *db.DB, token int64) (value int64, err error) {
	err = d.Tx(ctx, func(tx *gorm.DB) error {
		row := func() *gorm.DB { return tx.Table("counter").Where("id = ?", r.lane) }
		if r.fenced {
			if err := db.RaiseFence(row(), token); err != nil {
				return err
			}
		}
		return row().Select("value").Scan(&value).Error
	})
	return value, err
}

// write stores the number; false where the fence refused it.
func (r race) write(ctx context.Context, d *db.DB, token, value int64) (bool, error) {
	err := d.Tx(ctx, func(tx *gorm.DB) error {
		row := tx.Table("counter").Where("id = ?", r.lane)
		if r.fenced {
			return db.Fenced(row, token, map[string]any{"value": value})
		}
		return row.UpdateColumn("value", value).Error
	})
	if errs.KindOf(err) == errs.Stale {
		return false, nil
	}
	return err == nil, err
}

// TestPauses stops a real process between its last look at its lease and its write, for longer than the lease, while a rival takes
// the lock and writes. With the fence no update is lost; without it some are, or the test would prove nothing.
func TestPauses(t *testing.T) {
	dsn := os.Getenv("EPROD_TEST_MYSQL_DSN")
	if dsn == "" {
		testenv.Databases(t, "meta") // says what is left out
		return
	}
	long := os.Getenv("EPROD_TEST_LONG") != ""
	for _, backend := range []string{"redis", "re-entrant", "etcd", "mysql"} {
		for _, fenced := range []bool{true, false} {
			ttl, lanes, pauses := 250*time.Millisecond, 2, 5
			if backend == "etcd" { // counts in seconds
				ttl, lanes, pauses = time.Second, 5, 2
			}
			switch {
			case long && fenced:
				lanes, pauses = lanes*2, pauses*11
			case !long && !fenced:
				lanes, pauses = 2, 1
			}
			t.Run(fmt.Sprintf("%s/fence=%v", backend, fenced), func(t *testing.T) {
				t.Parallel()
				d := testenv.MySQL(t, dsn, "meta")
				r := race{backend: backend, prefix: fmt.Sprintf("t%d:", time.Now().UnixNano()), ttl: ttl, fenced: fenced}
				runRace(t, r, d, lanes, pauses)
			})
		}
	}
}

func runRace(t *testing.T, r race, d *db.DB, lanes, pauses int) {
	l, ok := r.locker(t, d)
	if !ok {
		return
	}
	if err := d.Pool().QueryRowContext(t.Context(), "SELECT DATABASE()").Scan(&r.database); err != nil {
		t.Fatal(err)
	}
	makeCounters(t, d, lanes)
	var told, stale atomic.Int64
	var running sync.WaitGroup
	for lane := range lanes {
		r := r
		r.lane = lane
		running.Go(func() {
			if err := r.run(t, d, l, pauses, &told, &stale); err != nil {
				t.Errorf("lane %d: %v", r.lane, err)
			}
		})
	}
	running.Wait()
	var total int64
	if err := d.Pool().QueryRowContext(t.Context(), "SELECT SUM(value) FROM counter").Scan(&total); err != nil {
		t.Fatal(err)
	}
	lost := told.Load() - total
	t.Logf("%d pauses, %d updates acknowledged, %d refused by the fence, %d lost", lanes*pauses, told.Load(), stale.Load(), lost)
	switch {
	case r.fenced && (lost != 0 || stale.Load() != int64(lanes*pauses)):
		t.Errorf("lost %d updates, %d of %d paused holders refused", lost, stale.Load(), lanes*pauses)
	case !r.fenced && lost == 0:
		t.Error("nothing was lost without the fence: the test does not see what it looks for")
	}
}

func makeCounters(t *testing.T, d *db.DB, lanes int) {
	t.Helper()
	err := d.Tx(t.Context(), func(tx *gorm.DB) error {
		if err := tx.Exec("CREATE TABLE counter (id BIGINT NOT NULL PRIMARY KEY, value BIGINT NOT NULL, fence BIGINT NOT NULL)").Error; err != nil {
			return err
		}
		rows := make([][]any, lanes)
		for i := range rows {
			rows[i] = []any{i, 0, 0}
		}
		return db.Insert(tx, "counter", []string{"id", "value", "fence"}, rows)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// run pauses one process so many times, and lets it work in peace in between.
func (r race) run(t *testing.T, d *db.DB, l Locker, pauses int, told, stale *atomic.Int64) error {
	cmd := exec.Command(os.Args[0], "-test.run=^TestPausedHolder$")
	cmd.Env = append(os.Environ(), pausedChild+"="+r.String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	limit := time.AfterFunc(30*time.Second+time.Duration(pauses)*10*time.Second, func() { _ = cmd.Process.Kill() })
	defer func() {
		limit.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(out)
	for i := range 2 * pauses {
		if line, err := lines.ReadString('\n'); line != "holding\n" {
			return fmt.Errorf("the holder says %q: %w", line, err)
		}
		if i%2 == 1 {
			if err := r.overtake(t.Context(), cmd.Process, d, l, told); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(in, "go\n"); err != nil {
			return err
		}
		if i%2 == 1 {
			if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
				return err
			}
		}
		switch line, err := lines.ReadString('\n'); line {
		case "wrote\n":
			told.Add(1)
		case "stale\n":
			stale.Add(1)
		default:
			return fmt.Errorf("the holder says %q: %w", line, err)
		}
	}
	return in.Close()
}

// overtake stops the holder, waits for its lock, and updates the number.
func (r race) overtake(ctx context.Context, holder *os.Process, d *db.DB, l Locker, told *atomic.Int64) error {
	if err := holder.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	s, err := l.Acquire(WithOwner(ctx, "rival"), r.name(), time.Minute, Wait(20*time.Second))
	if err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	value, err := r.read(ctx, d, s.Token)
	if err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	wrote, err := r.write(ctx, d, s.Token, value+1)
	if !wrote {
		return fmt.Errorf("the rival holds the lock and may not write: %w", err)
	}
	told.Add(1)
	return s.Release(ctx)
}

// TestPausedHolder is the process that is paused: it takes the lock, looks whether its lease is good, and writes when it is told.
func TestPausedHolder(t *testing.T) {
	text := os.Getenv(pausedChild)
	if text == "" {
		return
	}
	r := parseRace(t, text)
	config, err := mysql.ParseDSN(os.Getenv("EPROD_TEST_MYSQL_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	config.DBName = r.database
	d, err := db.OpenMySQL(t.Context(), "mysql", config.FormatDSN(), db.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	l, ok := r.locker(t, d)
	if !ok {
		t.Fatal("no back end")
	}
	ctx := WithOwner(t.Context(), "holder")
	input := bufio.NewReader(os.Stdin)
	for {
		s, err := l.Acquire(ctx, r.name(), r.ttl, Wait(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		value, err := r.read(ctx, d, s.Token)
		if errs.KindOf(err) == errs.Stale || err == nil && !time.Now().Before(s.ValidUntil()) {
			if err := s.Release(ctx); err != nil { // a slow machine: the lease was over before the work
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("holding")
		if _, err := input.ReadString('\n'); err != nil {
			return
		}
		wrote, err := r.write(ctx, d, s.Token, value+1)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(map[bool]string{true: "wrote", false: "stale"}[wrote])
		if err := s.Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
