package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
)

// openClosing makes what locks and unlocks studies.
func (s *server) openClosing() {
	shelf := &study.Store{Meta: s.meta}
	page := s.config.StudyLock.Page
	s.locker = study.NewLocker(s.config.StudyLock, study.LockerParts{Progress: shelf, Data: &study.ClosingStore{Shards: s.shards, Page: page}, Intake: intakeLog{s},
		Followers: &eventFollowers{server: s}, Catalog: s.catalog, Locks: s.procedures, Attester: s.signer, IDs: s.ids, Partitions: s.kafka.Partitions, Now: time.Now, Logger: s.log})
	s.locks = &study.LockService{Closures: shelf, Catalog: s.catalog, Guard: s.guard, Passwords: s.users, IDs: s.ids, Now: time.Now, Finish: s.locker.Finish}
}

// intakeLog is the log of submissions with its spools, for the locking of studies.
type intakeLog struct{ *server }

// Spooled implements study.Intake.
func (l intakeLog) Spooled(ctx context.Context, id int64) (int64, error) {
	var total atomic.Int64
	err := l.shards.Each(ctx, func(ctx context.Context, d *db.DB) error {
		n, err := submission.Spooled(ctx, d, id)
		total.Add(n)
		return err
	})
	return total.Load(), err
}

// Barrier implements study.Intake.
func (l intakeLog) Barrier(ctx context.Context, lock int64, partition int32) error {
	return l.producer.Send(ctx, submission.Barrier{Lock: lock}.Message(partition))
}

// Resend implements study.Intake.
func (l intakeLog) Resend(ctx context.Context, id int64) (int64, error) {
	var total atomic.Int64
	err := l.shards.Each(ctx, func(ctx context.Context, d *db.DB) error {
		n, err := submission.Resend(ctx, d, id, func(ctx context.Context, r *submission.Record) error {
			return l.producer.Send(ctx, r.Message(submission.Partition(r.Participant, l.kafka.Partitions)))
		})
		total.Add(int64(n))
		return err
	})
	return total.Load(), err
}

// followerGroups are the consumers of events that a study's lock waits for: what they write belongs to the study.
func followerGroups() []string { return []string{safetyGroup} }

// eventFollowers tells whether the consumers of events have seen everything that was there before an instant.
type eventFollowers struct {
	*server
	mu   sync.Mutex
	at   time.Time
	ends map[int32]int64 // of the log of events, when everything before at was in it
}

// Behind implements study.Followers.
func (f *eventFollowers) Behind(ctx context.Context, since time.Time) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.at.Equal(since) {
		for _, d := range f.shards.All() {
			waiting, err := outbox.Before(ctx, d, since)
			if err != nil {
				return "", err
			}
			if waiting > 0 {
				return fmt.Sprintf("%d rows of events to be relayed", waiting), nil
			}
		}
		ends, err := kafka.Ends(ctx, f.kafka, f.dial, submission.Events)
		if err != nil {
			return "", err
		}
		f.at, f.ends = since, ends
	}
	for _, group := range followerGroups() {
		done, err := kafka.Committed(ctx, f.kafka, f.dial, group, submission.Events)
		if err != nil {
			return "", err
		}
		behind := int64(0)
		for p, end := range f.ends {
			behind += max(0, end-done[p])
		}
		if behind > 0 {
			return fmt.Sprintf("%s to follow %d events", group, behind), nil
		}
	}
	return "", nil
}
