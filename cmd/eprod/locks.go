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
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
)

// openClosing makes what locks and unlocks studies.
func (s *server) openClosing() {
	shelf := &study.Store{Meta: s.meta}
	page := s.config.StudyLock.Page
	s.locker = study.NewLocker(s.config.StudyLock, study.LockerParts{Progress: shelf, Data: &study.ClosingStore{Shards: s.shards, Page: page}, Intake: intakeLog{s},
		Followers: &followers{shards: s.shards.All, lag: s.groupLag}, Catalog: s.catalog, Locks: s.procedures, Attester: s.signer, IDs: s.ids, Partitions: s.kafka.Partitions, Now: time.Now, Logger: s.log})
	s.locks = &study.LockService{Closures: shelf, Catalog: s.catalog, Guard: s.guard, Passwords: s.users, IDs: s.ids, Now: time.Now, Finish: s.locker.Finish}
}

// groupLag tells how far consumer groups are behind.
func (s *server) groupLag(ctx context.Context, groups []kafka.Group) ([]kafka.Behind, error) {
	return kafka.Lag(ctx, s.kafka, s.dial, groups)
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

// followerGroups are the consumers that a study's lock waits for: what they write belongs to the study. Urgent findings count, too, for
// those of a submission that is quarantined are told nowhere else.
func followerGroups() []kafka.Group {
	return []kafka.Group{{Name: safetyGroup, Topic: submission.Events}, {Name: urgentGroup, Topic: safety.UrgentTopic}}
}

// followers tells whether those who follow the log have seen everything that was there when a locking first asked. It goes by what is
// there, never by a clock: what was written before, by whichever host, is there.
type followers struct {
	shards func() []*db.DB
	lag    func(ctx context.Context, groups []kafka.Group) ([]kafka.Behind, error)

	mu    sync.Mutex
	marks map[int64]*mark // by locking
}

// mark is where a locking found the outboxes and, when those had been relayed that far, the log.
type mark struct {
	rows map[string]int64 // the last row of each shard
	ends map[place]int64  // nil until then
}

// place is one partition that a group consumes.
type place struct {
	group     kafka.Group
	partition int32
}

// maxMarks bounds what is remembered; a locking that is forgotten looks anew, which is later and right as well.
const maxMarks = 100

// Behind implements study.Followers.
func (f *followers) Behind(ctx context.Context, lock int64) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := f.mark(ctx, lock)
	if err != nil {
		return "", err
	}
	if m.ends == nil {
		waiting := int64(0)
		for _, d := range f.shards() {
			n, err := outbox.UpTo(ctx, d, m.rows[d.Name])
			if err != nil {
				return "", err
			}
			waiting += n
		}
		if waiting > 0 {
			return fmt.Sprintf("%d rows of events to be relayed", waiting), nil
		}
	}
	list, err := f.lag(ctx, followerGroups())
	if err != nil {
		return "", err
	}
	if m.ends == nil {
		m.ends = make(map[place]int64, len(list))
		for _, b := range list {
			m.ends[place{b.Group, b.Partition}] = b.Next + b.Records
		}
	}
	behind := make(map[kafka.Group]int64)
	for _, b := range list {
		behind[b.Group] += max(0, m.ends[place{b.Group, b.Partition}]-b.Next)
	}
	for _, group := range followerGroups() {
		if n := behind[group]; n > 0 {
			return fmt.Sprintf("%s to follow %d records of %s", group.Name, n, group.Topic), nil
		}
	}
	delete(f.marks, lock)
	return "", nil
}

// mark returns where a locking found the outboxes when it first asked.
func (f *followers) mark(ctx context.Context, lock int64) (*mark, error) {
	if m := f.marks[lock]; m != nil {
		return m, nil
	}
	m := &mark{rows: make(map[string]int64)}
	for _, d := range f.shards() {
		last, err := outbox.Last(ctx, d)
		if err != nil {
			return nil, err
		}
		m.rows[d.Name] = last
	}
	if f.marks == nil || len(f.marks) >= maxMarks {
		f.marks = make(map[int64]*mark)
	}
	f.marks[lock] = m
	return m, nil
}
