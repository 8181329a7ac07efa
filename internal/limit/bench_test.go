package limit_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/testenv"
)

// BenchmarkShared compares a bucket leased in packs with one Lua call per request, on the same Redis, the real one where it runs.
// The Lua call is as cheap as it can be: one script that refills and takes one token.
func BenchmarkShared(b *testing.B) {
	address, ok := testenv.Redis(b)
	if !ok {
		address = miniredis.RunT(b).Addr()
	}
	client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true})
	b.Cleanup(func() { _ = client.Close() })
	each := redis.NewScript(`
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(tonumber(ARGV[2]), tonumber(bucket[1] or ARGV[2]) + (now - tonumber(bucket[2] or now)) * ARGV[1] / 1000000)
local allowed = 0
if tokens >= 1 then tokens, allowed = tokens - 1, 1 end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], 10000)
return allowed`)
	key := fmt.Sprintf("t%d:each", time.Now().UnixNano())
	luaCall := func(ctx context.Context, caller string) bool {
		n, err := each.Run(ctx, client, []string{key + caller}, 1_000_000, 1_000_000).Int()
		return err == nil && n == 1
	}
	p := newFleet(1_000_000, 1_000_000).open(b, address)
	leased := func(ctx context.Context, caller string) bool {
		ok, _ := p.Allow(ctx, caller)
		return ok && p.alone.Load() == 0
	}
	for _, way := range []struct {
		name  string
		allow func(ctx context.Context, caller string) bool
	}{{"lua-call-per-request", luaCall}, {"leased", leased}} {
		b.Run("one-caller/"+way.name, func(b *testing.B) {
			for b.Loop() {
				if !way.allow(b.Context(), "alone") {
					b.Fatal("refused, or Redis did not answer")
				}
			}
		})
		parallel := func(b *testing.B, caller func() string) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				key := caller()
				for pb.Next() {
					if !way.allow(b.Context(), key) {
						b.Error("refused, or Redis did not answer")
						return
					}
				}
			})
		}
		b.Run("many-callers/"+way.name, func(b *testing.B) {
			var callers atomic.Int64
			parallel(b, func() string { return fmt.Sprint("caller", callers.Add(1)) })
		})
		b.Run("one-bucket-for-all/"+way.name, func(b *testing.B) { parallel(b, func() string { return "route" }) })
	}
}
