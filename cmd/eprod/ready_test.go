package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eprod/eprod/internal/limit"
)

// TestReady: a process is ready as long as somebody's submission can be made durable, and as long as only a submission can find out.
func TestReady(t *testing.T) {
	answers := func(context.Context) error { return nil }
	away := func(word string) func(context.Context) error {
		return func(context.Context) error { return errors.New(word + " is away") }
	}
	hangs := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	type place = func(context.Context) error
	for _, c := range []struct {
		name   string
		state  limit.State
		log    place
		shards []place
		says   string // what the refusal contains; "" where the process is ready
	}{
		{"the log takes records, whatever the shards do", limit.Closed, hangs, []place{away("one"), hangs}, ""},
		{"log dead, all shards well", limit.Open, away("the log"), []place{answers, answers}, ""},
		{"log dead, one shard dead", limit.Open, away("the log"), []place{away("one"), answers}, ""},
		{"log dead, another shard dead", limit.Open, away("the log"), []place{answers, away("two")}, ""},
		{"log hung, one shard hung", limit.Open, hangs, []place{hangs, answers}, ""},
		{"log hung and on trial, one shard hung", limit.HalfOpen, hangs, []place{answers, hangs}, ""},
		{"log dead and on trial, no shard", limit.HalfOpen, away("the log"), []place{away("one"), away("two")}, "the log is away"},
		{"log hung and on trial, no shard", limit.HalfOpen, hangs, []place{hangs, hangs}, "half-open"},
		{"the log is back, and no shard", limit.HalfOpen, answers, []place{away("one"), hangs}, ""},
		{"the log is not tried yet, and no shard", limit.Open, answers, []place{away("one"), away("two")}, "two is away"},
		{"nothing", limit.Open, away("the log"), []place{hangs, hangs}, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // as the operators' listener gives
				defer cancel()
				began := time.Now()
				err := acceptance{log: func() limit.State { return c.state }, asksLog: c.log, shards: c.shards}.possible(ctx)
				if c.says == "" && (err != nil || time.Since(began) > 0) {
					t.Errorf("%v after %v, want ready at once", err, time.Since(began))
				}
				if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
					t.Errorf("%v, want a refusal that says %q", err, c.says)
				}
			})
		})
	}
}
