// Package embedded decides what runs inside the process when nothing is configured: a broker that speaks the Kafka protocol
// and flushes every batch to disk, a Redis-protocol server in memory, and the places of the SQLite files, all under one
// data folder that one process at a time may use. No port is opened: clients connect through pipes in memory.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"golang.org/x/sys/unix"

	"github.com/eprod/eprod/internal/kafka"
)

const (
	brokerAddress = "127.0.0.1:9092" // a name only: the pipe is what connects
	retention     = "8589934592"     // bytes of one partition that are kept; by time, offsets could fall back to zero
	maxKeys       = 100_000          // of the cache
	// Partitions of the embedded log: each batch of each partition is flushed on its own, so few are faster.
	Partitions = 2
)

// Embedded is the set of stores inside this process.
type Embedded struct {
	dir    string
	random io.Reader
	lock   *os.File
	broker *kfake.Cluster
	pipe   *pipe
	redis  *miniredis.Miniredis
	close  func() error

	mu     sync.Mutex
	closed bool // a connection would start the cache again
}

// Open takes the data folder, which is made if it is missing, and starts the stores. It fails, naming the holder, when
// another process has the folder.
func Open(dir string, random io.Reader, log *slog.Logger) (*Embedded, error) {
	for _, d := range []string{dir, filepath.Join(dir, "log"), filepath.Join(dir, "secrets")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	}
	lock, err := takeLock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	e := &Embedded{dir: dir, random: random, lock: lock, pipe: newPipe(brokerAddress), redis: miniredis.NewMiniRedis()}
	e.close = sync.OnceValue(e.stop)
	e.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.DataDir(filepath.Join(dir, "log")), kfake.SyncWrites(),
		kfake.ClusterID("eprod-embedded"), kfake.DefaultNumPartitions(Partitions), kfake.ListenFn(e.pipe.listen), kfake.WithLogger(brokerLog{log}),
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1", "log.retention.bytes": retention, "offsets.retention.minutes": "52560000"}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded log in %s: %w", filepath.Join(dir, "log"), err), lock.Close())
	}
	// The first connection starts the cache without a listener; its Start would open a port.
	if first, err := e.redis.Dial(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded cache: %w", err), e.Close())
	} else if err := first.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded cache: %w", err), e.Close())
	}
	log.Debug("embedded stores are open", "folder", dir)
	return e, nil
}

// brokerLog passes the broker's warnings on: a disk that is full or broken shows nowhere else.
type brokerLog struct{ log *slog.Logger }

// Logf implements kfake.Logger.
func (b brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		b.log.Error("embedded log: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		b.log.Warn("embedded log: " + fmt.Sprintf(format, args...))
	}
}

// takeLock locks a file for this process' life. The kernel releases it when the process ends, however it ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another eprod process (pid %s) has it: stop that one, or name another folder with --data-dir", strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// Run moves the cache's clock, bounds the cache and trims the log until ctx ends. Without it keys of the cache would never
// expire.
func (e *Embedded) Run(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond) // asking the clock at each access is far slower
	defer tick.Stop()
	weigh := time.NewTicker(10 * time.Second)
	defer weigh.Stop()
	trim := time.NewTicker(time.Hour)
	defer trim.Stop()
	shown := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if step := now.Sub(shown); step > 0 { // more than a tick after a pause of the process
				e.redis.FastForward(step)
				shown = now
			}
		case <-weigh.C:
			if len(e.redis.Keys()) > maxKeys {
				e.redis.FlushAll() // a cache may forget; it may not fill the memory
			}
		case <-trim.C:
			e.broker.ApplyRetention()
		}
	}
}

// Close stops the stores and gives the folder back. Run must have returned and clients be closed. Repeating it is harmless.
func (e *Embedded) Close() error { return e.close() }

func (e *Embedded) stop() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.redis.Close()
	e.broker.Close()
	return e.lock.Close()
}

// KafkaBrokers returns the address that KafkaDial connects to.
func (e *Embedded) KafkaBrokers() []string { return []string{brokerAddress} }

// KafkaDial connects to the embedded broker.
func (e *Embedded) KafkaDial() kafka.Dial { return e.pipe.dial }

// RedisDial connects to the embedded cache; it has the form that go-redis asks for. The client sets DisableIdentity: the
// cache does not know that command.
func (e *Embedded) RedisDial(context.Context, string, string) (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, net.ErrClosed
	}
	return e.redis.Dial()
}

// MetaPath returns the file of the metadata database.
func (e *Embedded) MetaPath() string { return filepath.Join(e.dir, "meta.db") }

// ShardPaths returns the files of the shards.
func (e *Embedded) ShardPaths() []string {
	return []string{filepath.Join(e.dir, "shard0.db"), filepath.Join(e.dir, "shard1.db")}
}

// Secret returns the random bytes kept under a name, and makes them at the first call. They live in the data folder, readable
// by its owner only: whoever has the folder has the data anyway.
func (e *Embedded) Secret(name string, size int) ([]byte, error) {
	path := filepath.Join(e.dir, "secrets", name)
	secret, err := os.ReadFile(path)
	if err == nil && len(secret) == size {
		return secret, nil
	}
	if err == nil {
		return nil, fmt.Errorf("secret %s: the file has %d bytes, want %d; nothing is overwritten", name, len(secret), size)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	secret = make([]byte, size)
	if _, err := io.ReadFull(e.random, secret); err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return secret, writeDurably(path, secret)
}

// writeDurably writes a file that is whole or absent, also after a power cut: data sealed with a lost key is lost.
func writeDurably(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}
