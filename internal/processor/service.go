package processor

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
)

// Catalog knows what studies ask for; see ingest for its promise.
type Catalog interface {
	Study(ctx context.Context, id int64) (study.Study, error)
	Plan(ctx context.Context, study int64) (task.Plan, error)
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
}

// People returns the profiles of those ids that exist, one query per table and shard.
type People interface {
	GetMany(ctx context.Context, ids []int64) (map[int64]*participant.Profile, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Meter counts what became of records.
type Meter interface {
	Processed(stored, quarantined, conflicts, duplicates, late int)
	Batch(records int, took time.Duration)
}

// Barriers learns that everything which a partition has before a mark is committed. It may be told again.
type Barriers interface {
	Passed(ctx context.Context, lock int64, partition int32, at time.Time) error
}

// Parts are what the processor needs. All are required but Committed.
type Parts struct {
	Catalog Catalog
	People  People
	Engine  *task.Engine
	Shards  *db.Shards
	Intake  *keyring.DataKey
	IDs     IDs
	Now     func() time.Time
	Meter   Meter
	Logger  *slog.Logger
	// Barriers is told of marks in the log.
	Barriers Barriers
	// Committed is told after each shard's commit that its outbox has something to relay.
	Committed func(shard *db.DB)
}

// Service processes batches. It is safe for concurrent use by one goroutine per partition.
type Service struct {
	Parts
	config Config
	lanes  []chan *share // one per shard
}

// New returns a processor. Run must be running for Handle to commit anything.
func New(config Config, parts Parts) *Service {
	s := &Service{Parts: parts, config: config}
	for range parts.Shards.All() {
		s.lanes = append(s.lanes, make(chan *share, shareQueue))
	}
	return s
}

// Handle processes consecutive messages of one partition. When it returns nil everything in them is committed: stored,
// quarantined, kept aside as a conflict, or known to be there already. An error means that some of it may be committed
// and that the same batch must be handed in again.
func (s *Service) Handle(ctx context.Context, batch []kafka.Message) error {
	began := s.Now()
	records, marks := apart(batch)
	verdicts, err := s.judge(ctx, records)
	if err != nil {
		return err
	}
	if err := s.place(ctx, verdicts); err != nil {
		return err
	}
	for _, m := range marks {
		if err := s.Barriers.Passed(ctx, m.lock, m.partition, s.Now()); err != nil {
			return fmt.Errorf("barrier: %w", err)
		}
	}
	s.Meter.Batch(len(batch), s.Now().Sub(began))
	return nil
}

// mark is a barrier in a partition.
type mark struct {
	lock      int64
	partition int32
}

// apart tells the records of a batch from the marks between them.
func apart(batch []kafka.Message) (records []kafka.Message, marks []mark) {
	for i, m := range batch {
		b, ok := submission.BarrierOf(m)
		switch {
		case ok:
			if marks == nil {
				records = append(records, batch[:i]...)
			}
			marks = append(marks, mark{b.Lock, m.Partition})
		case marks != nil:
			records = append(records, m)
		}
	}
	if marks == nil {
		return batch, nil
	}
	return records, marks
}

// place commits verdicts where their participants are; buckets may be on their way to another shard.
func (s *Service) place(ctx context.Context, verdicts []verdict) error {
	const rounds = 8 // each waits for what moves
	var last error
	for range rounds {
		var again []verdict
		for _, part := range s.byShard(verdicts) {
			err := s.hand(ctx, part.lane, part.verdicts)
			if err != nil && !db.IsMoved(err) {
				return fmt.Errorf("shard %s: %w", part.shard.Name, err)
			}
			if err != nil {
				again, last = append(again, part.verdicts...), fmt.Errorf("shard %s: %w", part.shard.Name, err)
			}
		}
		if len(again) == 0 {
			return nil
		}
		for i := range again {
			if err := s.Shards.Await(ctx, again[i].record.Participant); err != nil {
				return err
			}
		}
		verdicts = again
	}
	return last
}

// judge decodes and checks every message. Its error is transient.
func (s *Service) judge(ctx context.Context, batch []kafka.Message) ([]verdict, error) {
	verdicts := make([]verdict, len(batch))
	ids := make([]int64, 0, len(batch))
	for i, m := range batch {
		r, err := submission.FromMessage(m)
		if err != nil {
			s.Logger.ErrorContext(ctx, "unreadable record", "topic", m.Topic, "partition", m.Partition, "offset", m.Offset, "error", err)
			id, err := s.IDs.NextN(1)
			if err != nil {
				return nil, err
			}
			verdicts[i] = verdict{record: unreadable(m, id[0], s.Now()), reason: ReasonUnreadable}
			continue
		}
		verdicts[i].record = r
		ids = append(ids, r.Participant)
	}
	people, err := s.People.GetMany(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	for i := range verdicts {
		v := &verdicts[i]
		if v.reason != "" {
			continue
		}
		if err := s.check(ctx, v, people[v.record.Participant]); err != nil {
			return nil, err
		}
	}
	return verdicts, nil
}

// check applies every rule to one record and fills its verdict. Its error is transient.
func (s *Service) check(ctx context.Context, v *verdict, p *participant.Profile) error {
	r := &v.record
	if p == nil || p.Study != r.Study {
		v.reason = ReasonUnknownParticipant
		return nil
	}
	v.site = p.Site
	if p.Status == participant.Withdrawn {
		v.reason = ReasonWithdrawn
		return nil
	}
	body, ok := s.open(r, p)
	if !ok {
		v.reason = ReasonSealed
		return nil
	}
	response, err := questionnaire.ParseResponse(body)
	if err != nil {
		v.reason, v.findings = ReasonInvalid, findings(err)
		return nil
	}
	return s.checkAgainstStudy(ctx, v, p, response)
}

// open decrypts a body, holds it against its hash, and seals it anew with the participant's key where the door could not.
func (s *Service) open(r *submission.Record, p *participant.Profile) ([]byte, bool) {
	key := p.Key
	if r.Key == submission.KeyIntake {
		key = s.Intake
	}
	body, err := r.Open(key)
	if err != nil || sha256.Sum256(body) != r.SHA256 {
		return nil, false
	}
	if r.Key == submission.KeyIntake {
		if err := r.Seal(p.Key, body); err != nil {
			return nil, false
		}
		r.Key = submission.KeyParticipant
	}
	return body, true
}

func (s *Service) checkAgainstStudy(ctx context.Context, v *verdict, p *participant.Profile, response *questionnaire.Response) error {
	r := &v.record
	about, err := s.Catalog.Study(ctx, r.Study)
	if err != nil {
		return fmt.Errorf("study: %w", err)
	}
	if about.Status == study.Draft { // what is locked is decided on the shard, in the transaction
		v.reason = ReasonStudy
		return nil
	}
	definition, err := s.Catalog.Definition(ctx, r.Study, response.Questionnaire)
	if err != nil {
		if !errs.Permanent(err) {
			return fmt.Errorf("questionnaire: %w", err)
		}
		v.reason, v.findings = ReasonQuestionnaire, findings(err)
		return nil
	}
	if v.findings = definition.Check(response, questionnaire.Context{Now: r.ReceivedAt, MaxSkew: s.config.MaxSkew}); len(v.findings) > 0 {
		v.reason = ReasonInvalid
		return nil
	}
	plan, err := s.Catalog.Plan(ctx, r.Study)
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	due, ok := s.Engine.Find(plan, p.Person, r.Task, r.ReceivedAt)
	if !ok || due.Questionnaire != response.Questionnaire {
		v.reason = ReasonUnknownTask
		return nil
	}
	if err := task.Acceptable(due, response.AuthoredAt, r.ReceivedAt); err != nil {
		v.reason, v.findings = ReasonTaskWindow, findings(err)
		return nil
	}
	late := task.Late(due, response.AuthoredAt, r.ReceivedAt)
	v.response = submission.Response{Record: *r, Site: p.Site, Questionnaire: definition.URL(), Version: definition.Version(),
		Status: response.Status, Authored: response.Authored, Zone: due.Zone, Late: late}
	v.done = task.Completion{Task: due, Submission: r.Submission, Response: r.ID, Late: late, CapturedAt: response.AuthoredAt, ReceivedAt: r.ReceivedAt}
	return nil
}

// findings turns a refusal into findings that hold no answer.
func findings(err error) []errs.Finding {
	e, ok := errs.As(err)
	if !ok {
		return nil
	}
	if len(e.Findings) > 0 {
		return e.Findings
	}
	return []errs.Finding{{Code: e.Code, Detail: e.Detail}}
}

type shardPart struct {
	shard    *db.DB
	lane     int // of its writers
	verdicts []verdict
}

// byShard groups verdicts by shard and keeps their order.
func (s *Service) byShard(verdicts []verdict) []shardPart {
	var parts []shardPart
	place := make(map[int]int)
	for _, v := range verdicts {
		n := s.Shards.Index(v.record.Participant)
		at, ok := place[n]
		if !ok {
			at = len(parts)
			place[n] = at
			parts = append(parts, shardPart{shard: s.Shards.For(v.record.Participant), lane: n})
		}
		parts[at].verdicts = append(parts[at].verdicts, v)
	}
	return parts
}

// commit stores one shard's part in one transaction. The first try assumes that nothing of it is there yet, which costs no
// reads; a duplicate key means that something is, and the next tries look first. A row that the database refuses for
// itself is found by halving and quarantined.
func (s *Service) commit(ctx context.Context, shard *db.DB, verdicts []verdict) error {
	const tries = 5
	var err error
	for try := range tries {
		var f fate
		if f, err = s.try(ctx, shard, verdicts, try > 0); err == nil {
			s.Meter.Processed(len(f.responses), len(f.quarantine), len(f.conflicts), f.duplicates, len(f.late))
			if s.Committed != nil {
				s.Committed(shard)
			}
			return nil
		}
		if !db.IsDuplicate(err) {
			break
		}
	}
	if ctx.Err() != nil || errs.KindOf(err) == errs.Unavailable || db.IsDuplicate(err) || !db.IsRefused(err) {
		return err
	}
	return s.isolate(ctx, shard, verdicts, err)
}

func (s *Service) isolate(ctx context.Context, shard *db.DB, verdicts []verdict, cause error) error {
	if len(verdicts) == 1 {
		v := verdicts[0]
		if v.reason == ReasonRefused {
			return cause
		}
		s.Logger.ErrorContext(ctx, "the store refuses a record", "shard", shard.Name, "submission.id", v.record.ID, "error", cause)
		v.reason, v.findings = ReasonRefused, nil
		return s.commit(ctx, shard, []verdict{v})
	}
	half := len(verdicts) / 2
	if err := s.commit(ctx, shard, verdicts[:half]); err != nil {
		return err
	}
	return s.commit(ctx, shard, verdicts[half:])
}
