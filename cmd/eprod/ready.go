package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/submission"
)

// ready reports whether this process can durably accept, for somebody: it is not stopping, and the log takes records or a shard answers,
// whose spool then takes those of its participants. One shard that is away makes no process unready: it would refuse everybody else.
func (s *server) ready(ctx context.Context) error {
	if s.config.Role == roleProcessor {
		return s.meta.Ping(ctx)
	}
	if s.web.Draining() {
		return errors.New("stopping")
	}
	return acceptance{log: s.breaker.State, asksLog: s.askLog, shards: s.pings()}.possible(ctx)
}

// askLog asks the leaders of all partitions that submissions go to.
func (s *server) askLog(ctx context.Context) error {
	if _, err := kafka.Ends(ctx, s.kafka, s.dial, submission.Topic); err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	return nil
}

// pings asks the shards on which somebody lives: one that was not added yet can take nothing.
func (s *server) pings() []func(ctx context.Context) error {
	var at []*db.DB
	var out []func(ctx context.Context) error
	for bucket := range db.Buckets {
		if d := s.shards.ForBucket(bucket); !slices.Contains(at, d) {
			at, out = append(at, d), append(out, d.Ping)
		}
	}
	return out
}

// acceptance is what decides whether anything can be accepted: the log, as its breaker sees it and as it answers, and the shards.
type acceptance struct {
	log     func() limit.State
	asksLog func(ctx context.Context) error
	shards  []func(ctx context.Context) error
}

// possible returns nil as soon as one place is known to take records, else why none does. While the breaker is half-open the log itself is
// asked as well: where all shards are away, an unready process gets no submission that would find out that the log is back.
func (a acceptance) possible(ctx context.Context) error {
	state := a.log()
	if state == limit.Closed {
		return nil
	}
	places := a.shards
	if state == limit.HalfOpen {
		places = append(slices.Clone(places), a.asksLog)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	problems := make([]error, len(places))
	var asking sync.WaitGroup
	for i, ask := range places {
		asking.Go(func() {
			if problems[i] = ask(ctx); problems[i] == nil {
				cancel() // the others, which may hang, are not waited for
			}
		})
	}
	asking.Wait()
	if slices.Contains(problems, nil) {
		return nil
	}
	return errors.Join(append(problems, fmt.Errorf("the breaker of the log is %s", state))...)
}
