package idgen

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eprod/eprod/internal/errs"
)

// EtcdLeases keeps worker leases in etcd, one key per number, which stays when the owner is gone: it holds how far ids may have
// gone. Safe for concurrent use.
type EtcdLeases struct {
	client *clientv3.Client
	prefix string
}

// NewEtcdLeases returns leases under keys that begin with prefix.
func NewEtcdLeases(client *clientv3.Client, prefix string) *EtcdLeases {
	return &EtcdLeases{client: client, prefix: prefix + "worker/"}
}

type etcdWorker struct {
	Owner string `json:"owner"`
	Fence int64  `json:"fence"`
	High  int64  `json:"high"` // microseconds since 1970
}

func (e *EtcdLeases) key(worker int) string { return e.prefix + strconv.Itoa(worker) }

// Take implements Leases.
func (e *EtcdLeases) Take(ctx context.Context, owner string, now, until time.Time) (Grant, error) {
	for try := 0; ; try++ {
		g, taken, err := e.takeOnce(ctx, owner, now, until)
		if err != nil {
			return Grant{}, errs.Away("a worker number", err)
		}
		if taken {
			return g, nil
		}
		if try >= takeTries {
			return Grant{}, errs.Away("a worker number", fmt.Errorf("%d times another process was first", try))
		}
	}
}

// takeOnce takes the lowest number that is free, unless another process does so meanwhile.
func (e *EtcdLeases) takeOnce(ctx context.Context, owner string, now, until time.Time) (g Grant, taken bool, err error) {
	found, err := e.client.Get(ctx, e.prefix, clientv3.WithPrefix())
	if err != nil {
		return Grant{}, false, fmt.Errorf("etcd: %w", err)
	}
	revisions := make(map[int]int64, len(found.Kvs))
	rows := make(map[int]etcdWorker, len(found.Kvs))
	for _, kv := range found.Kvs {
		var row etcdWorker
		worker, err := strconv.Atoi(strings.TrimPrefix(string(kv.Key), e.prefix))
		if err == nil {
			err = json.Unmarshal(kv.Value, &row)
		}
		if err != nil {
			return Grant{}, false, fmt.Errorf("etcd: the key %s holds something else: %w", kv.Key, err)
		}
		revisions[worker], rows[worker] = kv.ModRevision, row
	}
	for worker := range Workers {
		row, used := rows[worker]
		if used && row.High >= now.UnixMicro() {
			continue
		}
		g = Grant{Worker: worker, Fence: row.Fence + 1}
		if used {
			g.Floor = time.UnixMicro(row.High).UTC()
		}
		taken, err = e.put(ctx, worker, revisions[worker], etcdWorker{owner, g.Fence, until.UnixMicro()})
		return g, taken, err
	}
	return Grant{}, false, errs.Away("a free worker number", nil)
}

// put writes a number's key if it still has the revision; 0 is a key that is not there.
func (e *EtcdLeases) put(ctx context.Context, worker int, revision int64, row etcdWorker) (bool, error) {
	value, err := json.Marshal(row)
	if err != nil {
		return false, err
	}
	key := e.key(worker)
	done, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(clientv3.OpPut(key, string(value))).Commit()
	if err != nil {
		return false, fmt.Errorf("etcd: %w", err)
	}
	return done.Succeeded, nil
}

// Renew implements Leases.
func (e *EtcdLeases) Renew(ctx context.Context, g Grant, until time.Time) (bool, error) {
	return e.set(ctx, g, func(row *etcdWorker) { row.High = until.UnixMicro() })
}

// Release implements Leases. The number of a grant that was lost is left alone.
func (e *EtcdLeases) Release(ctx context.Context, g Grant, highWater time.Time) error {
	_, err := e.set(ctx, g, func(row *etcdWorker) { row.Owner, row.High = "", highWater.UnixMicro() })
	return err
}

// set changes a number's key as long as the grant's fence is the newest.
func (e *EtcdLeases) set(ctx context.Context, g Grant, change func(*etcdWorker)) (bool, error) {
	for range takeTries {
		found, err := e.client.Get(ctx, e.key(g.Worker))
		if err != nil {
			return false, errs.Away("the worker lease", fmt.Errorf("etcd: %w", err))
		}
		if len(found.Kvs) == 0 {
			return false, nil
		}
		var row etcdWorker
		if err := json.Unmarshal(found.Kvs[0].Value, &row); err != nil {
			return false, errs.Away("the worker lease", fmt.Errorf("etcd: the key %s holds something else: %w", found.Kvs[0].Key, err))
		}
		if row.Fence != g.Fence {
			return false, nil
		}
		change(&row)
		if done, err := e.put(ctx, g.Worker, found.Kvs[0].ModRevision, row); done || err != nil {
			return done, err
		}
	}
	return false, errs.Away("the worker lease", fmt.Errorf("etcd: the key %s changes all the time", e.key(g.Worker)))
}
