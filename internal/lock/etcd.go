package lock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// NewEtcd returns locks on an etcd cluster, under keys that begin with prefix. A lock survives the loss of a minority of the
// cluster. Time to live is counted there in whole seconds, rounded up; ValidUntil keeps to what was asked for.
//
// The fence is the revision that made the lock's key. It falls back only if the cluster is restored from a backup: then raise the
// revision while restoring (etcdutl snapshot restore --bump-revision --mark-compacted), or the database refuses every holder.
func NewEtcd(client *clientv3.Client, prefix string, parts Parts) *Locks {
	return &Locks{Parts: parts, kind: OnEtcd, store: &etcdStore{client: client, prefix: prefix + "lock/", clock: parts.Clock}}
}

// A lock is one key with its holder as value, attached to an etcd lease of this acquisition alone: two acquisitions on one lease
// would both have it. What may have been acquired without our knowing is undone by revoking its lease: a late repetition of that,
// unlike one of "delete the key", cannot hit a newer holder, and a late arrival of the acquisition itself finds no lease.
type etcdStore struct {
	client *clientv3.Client
	prefix string
	clock  func() time.Time
}

func (s *etcdStore) take(ctx context.Context, c *claim, ttl time.Duration) (int64, error) {
	key := s.prefix + c.name
	found, err := s.client.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("etcd: %w", err)
	}
	if len(found.Kvs) > 0 && c.lease != 0 && found.Kvs[0].Lease == c.lease { // the answer was lost
		held, err := s.extend(ctx, c, ttl)
		if err == nil && !held {
			err = fmt.Errorf("etcd: lock %s ran out before it was known", c.name)
		}
		return found.Kvs[0].CreateRevision, err
	}
	if err := s.free(ctx, c); err != nil { // of an earlier call that may still arrive
		return 0, err
	}
	if len(found.Kvs) > 0 { // so that those who wait make no leases
		return 0, s.held(ctx, found.Kvs[0])
	}
	granted, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, fmt.Errorf("etcd: %w", err)
	}
	c.lease = int64(granted.ID)
	done, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, c.holder, clientv3.WithLease(granted.ID))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, fmt.Errorf("etcd: %w", err)
	}
	if done.Succeeded {
		return done.Header.Revision, nil
	}
	_ = s.free(ctx, c) // it holds nothing, and ends by itself
	if r := done.Responses; len(r) == 1 && len(r[0].GetResponseRange().GetKvs()) == 1 {
		return 0, s.held(ctx, r[0].GetResponseRange().Kvs[0])
	}
	return 0, fmt.Errorf("etcd: a reply without the holder of lock %s", c.name)
}

func (s *etcdStore) held(ctx context.Context, kv *mvccpb.KeyValue) error {
	held := &HeldError{Hold{Owner: string(kv.Value), Fence: kv.CreateRevision}}
	if left, err := s.client.TimeToLive(ctx, clientv3.LeaseID(kv.Lease)); err == nil && left.TTL > 0 {
		held.Until = s.clock().Add(time.Duration(left.TTL) * time.Second)
	}
	return held
}

// extend sets the end to what was granted, which the caller's own view may cut short.
func (s *etcdStore) extend(ctx context.Context, c *claim, _ time.Duration) (bool, error) {
	_, err := s.client.KeepAliveOnce(ctx, clientv3.LeaseID(c.lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("etcd: %w", err)
	}
	return true, nil
}

func (s *etcdStore) free(ctx context.Context, c *claim) error {
	if c.lease == 0 {
		return nil
	}
	if _, err := s.client.Revoke(ctx, clientv3.LeaseID(c.lease)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("etcd: %w", err)
	}
	c.lease = 0
	return nil
}

// lost implements watcher: an operator who deletes the key, or the expiry of its lease, ends the lock at once.
func (s *etcdStore) lost(ctx context.Context, c *claim, token int64) {
	for changes := range s.client.Watch(ctx, s.prefix+c.name, clientv3.WithRev(token+1), clientv3.WithFilterPut()) {
		if len(changes.Events) > 0 {
			return
		}
	}
	<-ctx.Done() // the watch failed, such as by a compaction; the renewal and the end of the lease still tell
}
