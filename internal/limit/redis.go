package limit

import (
	"context"
	"errors"
	"net"

	"github.com/redis/go-redis/v9"
)

// ProtectRedis puts a breaker around every call of a client: a Redis that hangs costs its callers nothing once the breaker is open. What
// Redis itself answers speaks for it. Each call keeps its own time limit; the client must have time-outs of its own for calls without one.
func ProtectRedis(client redis.UniversalClient, b *Breaker) { client.AddHook(redisHook{b}) }

type redisHook struct{ breaker *Breaker }

// DialHook implements redis.Hook.
func (redisHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (h redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := h.do(ctx, func(ctx context.Context) error { return next(ctx, cmd) })
		if err != nil && cmd.Err() == nil {
			cmd.SetErr(err) // callers ask the command
		}
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (h redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := h.do(ctx, func(ctx context.Context) error { return next(ctx, cmds) })
		for _, cmd := range cmds {
			if err != nil && cmd.Err() == nil && errors.Is(err, ErrOpen) {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// behind marks the context of a call that has passed the breaker. The client opens a connection within a call, with commands of its
// own: asked again, a half-open breaker would refuse its own probe.
type behind struct{}

func (h redisHook) do(ctx context.Context, call func(ctx context.Context) error) error {
	if ctx.Value(behind{}) != nil {
		return call(ctx)
	}
	var answer error
	err := h.breaker.Do(ctx, func(context.Context) error {
		err := call(context.WithValue(ctx, behind{}, true))
		if silent(err) {
			return err
		}
		answer = err
		return nil
	})
	if err != nil {
		return err
	}
	return answer
}

// silent reports whether Redis gave no answer. A missing key and a refusal are answers.
func silent(err error) bool {
	var refusal redis.Error
	var network net.Error
	return err != nil && (errors.As(err, &network) || !errors.As(err, &refusal))
}
